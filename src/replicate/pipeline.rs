//! Many statements sent before the first answer is read.

use super::apply::Enforcement;
use super::error::Error;
use super::plan::Row;
use super::table::Table;
use crate::backend::control::Control;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use std::error::Error as StdError;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A pipeline that has not been answered for so long will not be: locks are waited for for less.
const PATIENCE: Duration = Duration::from_secs(600);

/// The bytes of a value in the form the statement expects.
#[derive(Debug)]
pub struct Raw(Option<Bytes>);

/// A value from bytes.
pub fn raw(bytes: &[u8]) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(bytes))
}

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.0 {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// One statement to send.
#[derive(Debug)]
pub struct Action {
    what: What,
    concerns: Concerns,
}

#[derive(Debug)]
enum What {
    Text(String),
    Prepared(tokio_postgres::Statement, Vec<Raw>),
}

/// What a failure means.
#[derive(Debug)]
enum Concerns {
    /// Our own bookkeeping.
    Us,
    /// A change of these tables.
    Tables(String),
    /// Rows of this table; `row` if it is about one, and how many are to be found.
    Rows { table: Arc<Table>, row: Option<Row>, expected: u64 },
}

impl Action {
    /// A command of ours.
    pub fn text(sql: String) -> Action {
        Action { what: What::Text(sql), concerns: Concerns::Us }
    }

    /// A prepared statement of ours.
    pub fn ours(statement: tokio_postgres::Statement, values: Vec<Option<Bytes>>) -> Action {
        let values = values.into_iter().map(Raw).collect();
        Action { what: What::Prepared(statement, values), concerns: Concerns::Us }
    }

    /// A TRUNCATE of `tables`.
    pub fn truncate(sql: String, tables: String) -> Action {
        Action { what: What::Text(sql), concerns: Concerns::Tables(tables) }
    }

    /// A change of `expected` rows of `table`.
    pub fn rows(
        statement: tokio_postgres::Statement,
        values: Vec<Option<Bytes>>,
        table: Arc<Table>,
        row: Option<Row>,
        expected: u64,
    ) -> Action {
        let values = values.into_iter().map(Raw).collect();
        Action { what: What::Prepared(statement, values), concerns: Concerns::Rows { table, row, expected } }
    }
}

/// Statements under way on one connection.
pub struct Pipeline<'a> {
    target: &'a Control,
    sent: Vec<(Answer<'a>, Concerns)>,
}

enum Answer<'a> {
    Awaited(BoxFuture<'a, Result<u64, tokio_postgres::Error>>),
    Here(Result<u64, tokio_postgres::Error>),
}

impl<'a> Pipeline<'a> {
    /// An empty one.
    pub fn new(target: &'a Control) -> Self {
        Pipeline { target, sent: Vec::new() }
    }

    /// Sends a statement. The driver encodes and queues it when its future is polled first, which
    /// is done here, so statements leave in the order of the calls.
    pub fn push(&mut self, action: Action) {
        let target = self.target;
        let mut future: BoxFuture<'a, _> = match action.what {
            What::Text(sql) => Box::pin(async move { target.batch_execute(&sql).await.map(|()| 0) }),
            What::Prepared(statement, values) => {
                Box::pin(async move { target.execute_raw(&statement, values).await })
            }
        };
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        // Polled again with a real waker in `finish`.
        let answer = match future.as_mut().poll(&mut context) {
            Poll::Ready(result) => Answer::Here(result),
            Poll::Pending => Answer::Awaited(future),
        };
        self.sent.push((answer, action.concerns));
    }

    /// Waits for all answers; the first failure in order is the cause of those behind it.
    pub async fn finish(self, enforcement: Enforcement) -> Result<(), Error> {
        let all = async {
            let mut first = None;
            for (answer, concerns) in self.sent {
                let result = match answer {
                    Answer::Here(result) => result,
                    Answer::Awaited(future) => future.await,
                };
                if first.is_none() {
                    first = judge(result, concerns, enforcement).err();
                }
            }
            first.map_or(Ok(()), Err)
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap_or(Err(Error::Deadline(PATIENCE)))
    }
}

fn judge(
    result: Result<u64, tokio_postgres::Error>,
    concerns: Concerns,
    enforcement: Enforcement,
) -> Result<(), Error> {
    match (result, concerns) {
        (Ok(found), Concerns::Rows { table, row, expected }) => {
            // Where foreign keys fire, the rows of a cascade are gone before their own deletes come.
            let is_cascade = enforcement == Enforcement::On
                && row.as_ref().is_none_or(|row| row.new.is_none())
                && found < expected;
            if found == expected || is_cascade {
                return Ok(());
            }
            Err(Error::MissingRow { table: table.plain_name(), key: key_of(&table, row.as_ref()) })
        }
        (Ok(_), Concerns::Us | Concerns::Tables(_)) => Ok(()),
        (Err(source), _) if source.code().is_none() => {
            Err(Error::Target { doing: "go on with the session", source })
        }
        (Err(source), Concerns::Us) => Err(Error::Target { doing: "move the mirror's position", source }),
        (Err(source), Concerns::Tables(table)) => Err(Error::Change { table, key: String::new(), source }),
        (Err(source), Concerns::Rows { table, row, .. }) => {
            let key = key_of(&table, row.as_ref());
            Err(Error::Change { table: table.plain_name(), key, source })
        }
    }
}

fn key_of(table: &Table, row: Option<&Row>) -> String {
    let found_by = row.and_then(|row| row.old.as_ref().or(row.new.as_ref()));
    found_by.map_or_else(String::new, |row| format!(" ({})", table.describe_key(row)))
}
