//! What the application was told, row by row, and what follows from it. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// What names a row: the connection that wrote it and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    pub writer: u32,
    pub number: i64,
}

/// A row that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub row: Row,
    /// The key that the server's sequence gave it.
    pub id: i64,
    /// Port of the server that took it.
    pub server: u16,
    pub at: Instant,
}

/// An error that a connection was told, or met when it was made.
#[derive(Debug, Clone)]
pub struct Trouble {
    pub writer: u32,
    /// SQLSTATE, or what the driver says of a connection that is gone.
    pub what: String,
}

/// Everything the application knows.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub acks: Vec<Ack>,
    pub troubles: Vec<Trouble>,
    /// Rows of unknown outcome that were found written when the application looked.
    pub found: u64,
    /// Rows of unknown outcome that were not found, and written again.
    pub missed: u64,
}

/// How one connection went from the dead server to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Between the last row the old server acknowledged and the first of the new one.
    pub stall: Duration,
    /// What it was told meanwhile; nothing when it saw latency only.
    pub told: Vec<String>,
}

/// What became of the acknowledged rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// Acknowledged in all.
    pub acknowledged: usize,
    /// Of those, on the server that was looked at.
    pub there: usize,
    /// The others.
    pub missing: Vec<Row>,
}

impl Book {
    /// How every connection that has written to `new` got there from `old`.
    pub fn passages(&self, old: u16, new: u16) -> Vec<Passage> {
        let mut last: BTreeMap<u32, Instant> = BTreeMap::new();
        let mut first: BTreeMap<u32, Instant> = BTreeMap::new();
        for ack in &self.acks {
            if ack.server == old {
                last.entry(ack.row.writer).and_modify(|at| *at = ack.at.max(*at)).or_insert(ack.at);
            } else if ack.server == new {
                first.entry(ack.row.writer).and_modify(|at| *at = ack.at.min(*at)).or_insert(ack.at);
            }
        }
        let told = |writer: u32| {
            self.troubles.iter().filter(|t| t.writer == writer).map(|t| t.what.clone()).collect()
        };
        first
            .iter()
            .filter_map(|(writer, first)| {
                let stall = first.saturating_duration_since(*last.get(writer)?);
                Some(Passage { stall, told: told(*writer) })
            })
            .collect()
    }

    /// The longest time between two acknowledged rows of one connection.
    pub fn longest_stall(&self) -> Duration {
        let mut last: HashMap<u32, Instant> = HashMap::new();
        let gap = |ack: &Ack| {
            last.insert(ack.row.writer, ack.at).map(|before| ack.at.saturating_duration_since(before))
        };
        self.acks.iter().filter_map(gap).max().unwrap_or_default()
    }

    /// When `server` acknowledged its first row.
    pub fn first_by(&self, server: u16) -> Option<Instant> {
        self.acks.iter().filter(|ack| ack.server == server).map(|ack| ack.at).min()
    }

    /// Acknowledged rows of one server.
    pub fn by(&self, server: u16) -> impl Iterator<Item = &Ack> {
        self.acks.iter().filter(move |ack| ack.server == server)
    }

    /// Compares what was acknowledged with the rows that a server has.
    pub fn compare(&self, rows: &HashSet<Row>) -> Account {
        let mut account = Account { acknowledged: self.acks.len(), ..Account::default() };
        for ack in &self.acks {
            match rows.contains(&ack.row) {
                true => account.there += 1,
                false => account.missing.push(ack.row),
            }
        }
        account.missing.sort_unstable();
        account
    }

    /// Keys that two acknowledged rows of `rows` share: sequences that have collided.
    pub fn collisions(&self, rows: &HashSet<Row>) -> usize {
        let mut seen: HashMap<i64, usize> = HashMap::new();
        for ack in self.acks.iter().filter(|ack| rows.contains(&ack.row)) {
            *seen.entry(ack.id).or_default() += 1;
        }
        seen.values().filter(|count| **count > 1).count()
    }
}

/// Equal texts counted, the commonest first: `08007 × 2, connection closed × 1`.
pub fn counted<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let texts: Vec<String> = counts.iter().map(|(text, count)| format!("{text} × {count}")).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u16 = 1;
    const NEW: u16 = 2;

    fn ack(start: Instant, writer: u32, number: i64, server: u16, ms: u64) -> Ack {
        let row = Row { writer, number };
        Ack { row, id: number, server, at: start + Duration::from_millis(ms) }
    }

    fn book(start: Instant) -> Book {
        Book {
            acks: vec![
                ack(start, 1, 1, OLD, 10),
                ack(start, 2, 1, OLD, 20),
                ack(start, 1, 2, OLD, 30),
                ack(start, 1, 3, NEW, 530),
                ack(start, 1, 4, NEW, 540),
                ack(start, 2, 2, NEW, 720),
            ],
            troubles: vec![Trouble { writer: 2, what: "08007".into() }],
            ..Book::default()
        }
    }

    #[test]
    fn a_passage_is_the_gap_between_the_servers() {
        let start = Instant::now();
        let book = book(start);
        let passage = |ms, told: &[&str]| Passage {
            stall: Duration::from_millis(ms),
            told: told.iter().map(|t| (*t).into()).collect(),
        };
        assert_eq!(book.passages(OLD, NEW), [passage(500, &[]), passage(700, &["08007"])]);
        assert_eq!(book.first_by(NEW), Some(start + Duration::from_millis(530)));
        assert_eq!(book.by(NEW).count(), 3);
        assert_eq!(book.longest_stall(), Duration::from_millis(700));
    }

    #[test]
    fn a_row_that_is_not_there_is_named() {
        let book = book(Instant::now());
        let mut rows: HashSet<Row> = book.acks.iter().map(|ack| ack.row).collect();
        let lost = Row { writer: 1, number: 2 };
        rows.remove(&lost);
        assert_eq!(book.compare(&rows), Account { acknowledged: 6, there: 5, missing: vec![lost] });
    }

    #[test]
    fn keys_that_two_rows_share_are_counted() {
        let book = book(Instant::now());
        let rows: HashSet<Row> = book.acks.iter().map(|ack| ack.row).collect();
        // Both connections number from 1, and here the number is the key.
        assert_eq!(book.collisions(&rows), 2);
    }

    #[test]
    fn equal_texts_are_counted() {
        assert_eq!(counted(["b", "a", "b"].into_iter()), "b × 2, a × 1");
        assert_eq!(counted(std::iter::empty()), "");
    }
}
