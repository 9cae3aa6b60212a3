//! A small application: connections that write one row after the other, and do after an error what
//! the documentation tells an application to do.

use super::book::{Ack, Book, Row, Trouble};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, NoTls, Statement};

/// What the application needs in its database. The key comes from a sequence, which must not give
/// one twice on the other server; the port says which server took the row.
pub const TABLE: &str = "CREATE TABLE orders (\
     id bigserial PRIMARY KEY, \
     writer int NOT NULL, \
     number bigint NOT NULL, \
     server_port int NOT NULL DEFAULT current_setting('port')::int, \
     ordered_at timestamptz NOT NULL DEFAULT now(), \
     UNIQUE (writer, number))";

/// Between two rows of a connection.
const PAUSE: Duration = Duration::from_millis(4);
/// Between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// For one statement or log-in; longer than the proxy holds one.
const PATIENCE: Duration = Duration::from_secs(40);
/// For the last rows when the application is stopped.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The running application; it ends when dropped.
pub struct Application {
    book: Arc<Mutex<Book>>,
    stop: watch::Sender<bool>,
    writers: JoinSet<()>,
}

impl Application {
    /// Starts a connection to `url` for every one of `writers`.
    pub fn start(url: &str, writers: std::ops::Range<u32>) -> Self {
        let book: Arc<Mutex<Book>> = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for writer in writers {
            let writing =
                Writer { writer, url: url.to_owned(), book: book.clone(), stopped: stopped.clone() };
            tasks.spawn(writing.run());
        }
        Self { book, stop, writers: tasks }
    }

    /// What it knows by now.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    /// Lets every connection finish its row, and ends it.
    pub async fn stop(mut self) -> Book {
        self.stop.send_replace(true);
        let all = async { while self.writers.join_next().await.is_some() {} };
        // One that cannot finish keeps a row that nobody was told of.
        let _ = tokio::time::timeout(STOP_WITHIN, all).await;
        self.writers.abort_all();
        std::mem::take(&mut *lock(&self.book))
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    writer: u32,
    url: String,
    book: Arc<Mutex<Book>>,
    stopped: watch::Receiver<bool>,
}

/// Whether a row may be there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    NotSent,
    Unknown,
}

impl Writer {
    async fn run(self) {
        let mut session: Option<Session> = None;
        for number in 1.. {
            let row = Row { writer: self.writer, number };
            let mut outcome = Outcome::NotSent;
            while !self.write(&mut session, row, &mut outcome).await {
                if *self.stopped.borrow() && outcome == Outcome::NotSent {
                    return;
                }
            }
            if *self.stopped.borrow() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes a row; `false` when it has to be tried again.
    async fn write(&self, session: &mut Option<Session>, row: Row, outcome: &mut Outcome) -> bool {
        let Some(open) = session.as_ref() else {
            match within(Session::open(&self.url)).await {
                Ok(opened) => *session = Some(opened),
                Err(failure) => {
                    self.trouble(failure.what);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
            return false;
        };
        match within(open.write(row, *outcome)).await {
            Ok(Written { ack, found }) => {
                let mut book = lock(&self.book);
                match (*outcome, found) {
                    (Outcome::Unknown, true) => book.found += 1,
                    (Outcome::Unknown, false) => book.missed += 1,
                    (Outcome::NotSent, _) => {}
                }
                book.acks.push(ack);
                true
            }
            Err(failure) => {
                // A statement that was refused has not been executed; of one that was lost with its
                // connection nobody knows.
                if failure.has_ended {
                    *session = None;
                    *outcome = Outcome::Unknown;
                }
                self.trouble(failure.what);
                false
            }
        }
    }

    fn trouble(&self, what: String) {
        lock(&self.book).troubles.push(Trouble { writer: self.writer, what });
    }
}

struct Failure {
    what: String,
    /// Whether the connection is over.
    has_ended: bool,
}

async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match error.as_db_error() {
            Some(error) => Failure {
                what: error.code().code().to_owned(),
                has_ended: error.parsed_severity() != Some(Severity::Error),
            },
            None => Failure { what: "connection lost".to_owned(), has_ended: true },
        }),
        Err(_) => {
            Err(Failure { what: format!("no answer within {} s", PATIENCE.as_secs()), has_ended: true })
        }
    }
}

struct Session {
    client: Client,
    insert: Statement,
    look: Statement,
    _connection: tokio_util::task::AbortOnDropHandle<()>,
}

struct Written {
    ack: Ack,
    found: bool,
}

impl Session {
    async fn open(url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let connection = tokio::spawn(async move {
            // Its end shows in the statements.
            let _ = connection.await;
        });
        let insert = "INSERT INTO orders (writer, number) VALUES ($1, $2) RETURNING id, server_port";
        let look = "SELECT id, server_port FROM orders WHERE writer = $1 AND number = $2";
        Ok(Self {
            insert: client.prepare(insert).await?,
            look: client.prepare(look).await?,
            client,
            _connection: tokio_util::task::AbortOnDropHandle::new(connection),
        })
    }

    async fn write(&self, row: Row, outcome: Outcome) -> Result<Written, tokio_postgres::Error> {
        let writer = row.writer.cast_signed();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&writer, &row.number];
        let found = match outcome {
            Outcome::NotSent => None,
            Outcome::Unknown => self.client.query_opt(&self.look, &parameters).await?,
        };
        let is_found = found.is_some();
        let answer = match found {
            Some(found) => found,
            None => self.client.query_one(&self.insert, &parameters).await?,
        };
        let server = u16::try_from(answer.get::<_, i32>(1)).unwrap_or(0);
        let ack = Ack { row, id: answer.get(0), server, at: Instant::now() };
        Ok(Written { ack, found: is_found })
    }
}
