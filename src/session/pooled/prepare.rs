//! Making a link fit for its next client, before anything of the client's is sent.

use super::has::{Has, Sequences, Stamp};
use super::settings::Settings;
use crate::session::walk::{Reported, ends_the_session};
use crate::wire::frame::{HEADER, Head, cstring, head};
use crate::wire::report::Report;
use bytes::Bytes;
use std::rc::Rc;

/// Rows of the query that cleans when no statement prepared by SQL is left: what unlocking answers.
const CLEAN_ROWS: usize = 1;

/// Queries on their way, whose answers the client does not see.
#[derive(Debug)]
pub struct Preparation {
    wanted: Rc<Settings>,
    /// The last values of sequences are taken away.
    discards_sequences: bool,
    endings: usize,
    /// Rows of the first query.
    rows: usize,
    cleans: Cleaning,
}

/// Whose the link is to be.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its number on this thread, and its time.
    pub stamp: Stamp,
    /// The last values of sequences must be its own.
    pub wants_own_values: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleaning {
    /// Only settings differ.
    No,
    /// The first query takes away what another client may have left behind.
    Yes,
}

/// What has come of it.
#[derive(Debug)]
pub enum Progress {
    /// More answers have to come.
    Unfinished,
    /// The link is fit.
    Done,
    /// The link has got a statement, or has not: what waited for it goes on.
    Brought,
    /// These bytes have to be sent.
    Again(Vec<u8>),
    /// The server refused a setting.
    Refused(Report),
    /// The server ends the link.
    Ended(Report),
    /// It speaks another protocol.
    Violation,
}

impl Preparation {
    /// What has to be sent so that a link with `has` is fit for a client that wants `wanted`; `None` when
    /// it is so already.
    pub fn of(wanted: &Rc<Settings>, has: &Has, asker: Asker) -> Option<(Self, Vec<u8>)> {
        let is_stained = has.stain.is_some_and(|by| by != asker.stamp.client);
        let wants_sequences = asker.wants_own_values && has.sequences.has_others(asker.stamp);
        if !is_stained && !wants_sequences && Rc::ptr_eq(wanted, &has.settings) {
            return None;
        }
        let mut queries = wanted.queries(has, is_stained);
        if wants_sequences {
            queries.push("DISCARD SEQUENCES".to_owned());
        }
        if queries.is_empty() {
            return None;
        }
        let cleans = if is_stained { Cleaning::Yes } else { Cleaning::No };
        let mut bytes = Vec::new();
        for query in &queries {
            put_query(&mut bytes, query);
        }
        Some((
            Self {
                discards_sequences: wants_sequences,
                wanted: wanted.clone(),
                endings: queries.len(),
                rows: 0,
                cleans,
            },
            bytes,
        ))
    }

    /// Reads answers; says how many of the bytes were read. Notifications are put into `news`.
    pub fn read(&mut self, bytes: &[u8], has: &mut Has, news: &mut Vec<u8>) -> (usize, Progress) {
        let mut at = 0;
        while let Head::Frame { tag, total } = head(&bytes[at..]) {
            let Some(frame) = bytes.get(at..at + total) else { return (at, Progress::Unfinished) };
            at += total;
            let body = &frame[HEADER..];
            match tag {
                b'A' => news.extend_from_slice(frame),
                b'S' => {
                    if let Some(reported) = reported(body) {
                        has.on_report(reported);
                    }
                }
                b'D' => self.rows += 1,
                b'E' => {
                    let report = Report::new(Bytes::copy_from_slice(body));
                    let is_end = ends_the_session(&report);
                    let progress = if is_end { Progress::Ended(report) } else { Progress::Refused(report) };
                    return (at, progress);
                }
                b'Z' => {
                    self.endings -= 1;
                    let was_cleaning = std::mem::replace(&mut self.cleans, Cleaning::No);
                    if was_cleaning == Cleaning::Yes && self.rows > CLEAN_ROWS {
                        // Statements prepared by SQL: all go, ours with them.
                        has.statements.clear();
                        self.endings += 1;
                        let mut bytes = Vec::new();
                        put_query(&mut bytes, "DEALLOCATE ALL");
                        return (at, Progress::Again(bytes));
                    }
                    if self.endings == 0 {
                        has.settings = self.wanted.clone();
                        has.is_outdated |= self.wanted.is_contradicted(has);
                        if self.discards_sequences {
                            has.sequences = Sequences::OfNobody;
                        }
                        has.stain = None;
                        return (at, Progress::Done);
                    }
                }
                _ => {}
            }
        }
        match head(&bytes[at..]) {
            Head::Bad { .. } => (at, Progress::Violation),
            Head::Partial | Head::Frame { .. } => (at, Progress::Unfinished),
        }
    }
}

pub(super) fn put_query(bytes: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len() + 5).expect("settings are short");
    bytes.push(b'Q');
    bytes.extend(length.to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

pub(super) fn reported(body: &[u8]) -> Option<Reported> {
    let (name, rest) = cstring(body)?;
    let (value, _) = cstring(rest)?;
    Some((name.into(), value.into()))
}
