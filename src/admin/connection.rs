//! A whole connection to the database `mirror`, in the simple and the extended protocol.
//!
//! States: greeting → idle ⇄ in a transaction block (which has no effect; drivers want to see it) →
//! ended. After an error in the extended protocol everything up to Sync is skipped ("Extended
//! Query").

use super::frontend::{self, Frontend, Target};
use super::statement::{EndTag, SERVER_VERSION, Statement, pieces, show_one, show_setting};
use crate::base::sqlstate;
use crate::pool::CancelKey;
use crate::sql::admin::Command;
use crate::sql::console::frames::{self, Format};
use crate::sql::console::{Caller, ConsoleCall, ConsoleError, ConsoleReply, ConsoleRows, Interrupt};
use crate::sys::random_bytes;
use crate::wire::frame::{HEADER, Head, head};
use crate::wire::message::{self, TransactionStatus};
use bytes::BytesMut;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Most statements and portals of one connection.
const NAMES_MAX: usize = 256;

/// Room for what a client sends at once.
const READ_AHEAD: usize = 4096;

/// How long, and with how many bytes, a client may go on behind its end.
const PARTING_MAX: (Duration, usize) = (Duration::from_secs(1), 1 << 20);

/// How long a client may take to read an answer.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// How long the console may take; longer than it gives any change.
const ANSWER_MAX: Duration = Duration::from_secs(330);

const SHUTTING_DOWN: &str = "terminating connection due to administrator command";

/// What is sent before the first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// AuthenticationOk, parameters, key and ReadyForQuery.
    Whole,
    /// The same without AuthenticationOk, which the log-in has sent.
    AfterAuthenticationOk,
    /// Nothing: the client has seen ReadyForQuery.
    None,
}

/// A client that has logged in to the console.
#[derive(Debug)]
pub struct Guest {
    /// Who it is.
    pub caller: Caller,
    /// What it has not been sent yet.
    pub greeting: Greeting,
    /// What it has sent behind its log-in already.
    pub sent: Vec<u8>,
    /// Its cancel key, which means no back end: it ends what waits here.
    pub cancel_key: Option<CancelKey>,
}

/// Serves a client until it leaves or `stopping` becomes true (FATAL 57P01). Fails only when the
/// socket does.
pub async fn serve<S>(
    stream: S,
    guest: Guest,
    console: mpsc::Sender<ConsoleCall>,
    stopping: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let presence = CancellationToken::new();
    let mut connection = Connection {
        stream,
        input: BytesMut::from(guest.sent.as_slice()),
        output: BytesMut::new(),
        caller: guest.caller,
        console,
        stopping,
        cancel_key: guest.cancel_key,
        presence: presence.clone(),
        _leaves: presence.drop_guard(),
        has_no_more: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
        transaction: TransactionStatus::Idle,
        skips_to_sync: false,
        is_ended: false,
    };
    connection.greet(guest.greeting);
    loop {
        while let Next::Handled = connection.handle_next().await? {}
        connection.flush().await?;
        if connection.is_ended {
            return connection.part().await;
        }
        if connection.has_no_more {
            return Ok(());
        }
        connection.input.reserve(READ_AHEAD);
        tokio::select! {
            read = connection.stream.read_buf(&mut connection.input) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            () = stops(&mut connection.stopping) => {
                connection.end(sqlstate::ADMIN_SHUTDOWN, SHUTTING_DOWN);
                connection.flush().await?;
                return connection.part().await;
            }
        }
    }
}

/// Ends when the process begins to stop; a sender that is gone means the same.
async fn stops(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stops| *stops).await);
}

struct Connection<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    caller: Caller,
    console: mpsc::Sender<ConsoleCall>,
    stopping: watch::Receiver<bool>,
    cancel_key: Option<CancelKey>,
    /// Cancelled when the client has left.
    presence: CancellationToken,
    _leaves: DropGuard,
    /// The client sends no more.
    has_no_more: bool,
    statements: HashMap<Vec<u8>, Statement>,
    portals: HashMap<Vec<u8>, Portal>,
    transaction: TransactionStatus,
    skips_to_sync: bool,
    /// Nothing is read any more.
    is_ended: bool,
}

#[derive(Debug)]
struct Portal {
    statement: Statement,
    formats: Vec<Format>,
    /// What is left of the answer, once it was executed.
    answer: Option<ConsoleRows>,
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// One message is done.
    Handled,
    /// No whole message is there, or there will be none any more.
    Waiting,
}

/// An error in the extended protocol, after which everything up to Sync is skipped.
type Step = Result<(), ConsoleError>;

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    fn greet(&mut self, greeting: Greeting) {
        let out = &mut self.output;
        match greeting {
            Greeting::None => return,
            Greeting::Whole => message::authentication_ok(out),
            Greeting::AfterAuthenticationOk => {}
        }
        let is_superuser = if self.caller.is_admin() { "on" } else { "off" };
        for (name, value) in [
            ("application_name", ""),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("default_transaction_read_only", "off"),
            ("in_hot_standby", "off"),
            ("integer_datetimes", "on"),
            ("IntervalStyle", "postgres"),
            ("is_superuser", is_superuser),
            ("server_encoding", "UTF8"),
            ("server_version", SERVER_VERSION),
            ("session_authorization", self.caller.user.as_str()),
            ("standard_conforming_strings", "on"),
            ("TimeZone", "UTC"),
        ] {
            message::parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        match &self.cancel_key {
            Some(key) => message::backend_key_data(out, key.pid(), key.secret()),
            // A key that cancels nothing keeps drivers content.
            None => message::backend_key_data(out, invented_pid(), &random_bytes::<4>()),
        }
        message::ready_for_query(out, TransactionStatus::Idle);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(WRITE_MAX, write).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.output.clear();
        Ok(())
    }

    /// Ends the sending side and reads on until the client has ended, too: a socket closed with
    /// unread bytes in it is reset, and the last error would be lost with it.
    async fn part(&mut self) -> io::Result<()> {
        let (patience, bytes_max) = PARTING_MAX;
        let parting = async {
            self.stream.shutdown().await?;
            let mut bytes = 0;
            while bytes < bytes_max {
                self.input.clear();
                match self.stream.read_buf(&mut self.input).await? {
                    0 => break,
                    read => bytes += read,
                }
            }
            Ok(())
        };
        tokio::time::timeout(patience, parting).await.unwrap_or(Ok(()))
    }

    /// FATAL, the last message of a connection.
    fn end(&mut self, code: &str, text: impl Into<String>) {
        frames::put_error(&mut self.output, "FATAL", &ConsoleError::new(code, text));
        self.is_ended = true;
    }

    async fn handle_next(&mut self) -> io::Result<Next> {
        let (tag, total) = match head(&self.input) {
            Head::Partial => return Ok(Next::Waiting),
            Head::Frame { tag, total } if total <= frontend::MESSAGE_MAX => (tag, total),
            Head::Frame { total, .. } => {
                self.end(
                    sqlstate::PROTOCOL_VIOLATION,
                    format!("a message of {total} bytes is too long for the console"),
                );
                return Ok(Next::Waiting);
            }
            Head::Bad { .. } => {
                self.end(sqlstate::PROTOCOL_VIOLATION, "invalid message length");
                return Ok(Next::Waiting);
            }
        };
        if self.input.len() < total {
            return Ok(Next::Waiting);
        }
        if tag == b'X' {
            self.is_ended = true;
            return Ok(Next::Waiting);
        }
        let frame = self.input.split_to(total).freeze();
        match frontend::read(tag, &frame[HEADER..]) {
            Ok(message) => self.handle(message).await,
            Err(error) => {
                self.end(sqlstate::PROTOCOL_VIOLATION, error.to_string());
                return Ok(Next::Waiting);
            }
        }
        // A client that asks without reading is made to wait for its own answers.
        if self.output.len() > frontend::MESSAGE_MAX {
            self.flush().await?;
        }
        Ok(Next::Handled)
    }

    async fn handle(&mut self, message: Frontend<'_>) {
        if self.skips_to_sync && !matches!(message, Frontend::Sync) {
            return;
        }
        let step = match message {
            Frontend::Query { text } => {
                // A simple Query takes the unnamed ones with it ("Extended Query").
                self.statements.remove(b"".as_slice());
                self.portals.remove(b"".as_slice());
                self.query(text).await;
                return self.ready();
            }
            Frontend::Sync => {
                self.skips_to_sync = false;
                if self.transaction == TransactionStatus::Idle {
                    self.portals.clear();
                }
                return self.ready();
            }
            Frontend::FunctionCall => {
                self.fail(&ConsoleError::new(sqlstate::NOT_SUPPORTED, "the console has no functions"));
                return self.ready();
            }
            Frontend::Flush | Frontend::Copy | Frontend::Terminate => return,
            Frontend::Parse { name, text } => self.parse(name, text),
            Frontend::Bind { portal, statement, values, formats } => {
                self.bind(portal, statement, values, formats)
            }
            Frontend::Describe { target, name } => self.describe(target, name),
            Frontend::Execute { portal, rows_max } => self.execute(portal, rows_max).await,
            Frontend::Close { target, name } => {
                match target {
                    Target::Statement => drop(self.statements.remove(name)),
                    Target::Portal => drop(self.portals.remove(name)),
                }
                message::close_complete(&mut self.output);
                Ok(())
            }
        };
        if let Err(error) = step {
            self.fail(&error);
            self.skips_to_sync = true;
        }
    }

    fn ready(&mut self) {
        message::ready_for_query(&mut self.output, self.transaction);
    }

    fn fail(&mut self, error: &ConsoleError) {
        frames::put_error(&mut self.output, "ERROR", error);
        if self.transaction == TransactionStatus::Open {
            self.transaction = TransactionStatus::Failed;
        }
    }

    /// One after the other, up to the first error.
    async fn query(&mut self, text: &[u8]) {
        let pieces = pieces(text);
        if pieces.is_empty() {
            return message::empty_query_response(&mut self.output);
        }
        for (start, piece) in pieces {
            let answer = match Statement::read(piece) {
                Ok(statement) => self.run(&statement).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(rows) => frames::put_reply(&mut self.output, &Ok(rows)),
                Err(mut error) => {
                    // A position counts from the start of the whole message.
                    let before = String::from_utf8_lossy(&text[..start]).chars().count();
                    error.position = error.position.map(|position| position + before);
                    return self.fail(&error);
                }
            }
        }
    }

    fn parse(&mut self, name: &[u8], text: &[u8]) -> Step {
        if !name.is_empty() && self.statements.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(ConsoleError::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        let statement = Statement::read(text)?;
        Self::insert(&mut self.statements, name, statement)?;
        message::parse_complete(&mut self.output);
        Ok(())
    }

    fn insert<T>(map: &mut HashMap<Vec<u8>, T>, name: &[u8], value: T) -> Step {
        if map.len() >= NAMES_MAX && !map.contains_key(name) {
            return Err(ConsoleError::new("53400", format!("the console keeps at most {NAMES_MAX} of them"))
                .with_hint("Close those that are not needed."));
        }
        map.insert(name.to_vec(), value);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Statement, ConsoleError> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            ConsoleError::new("26000", format!("prepared statement \"{name}\" does not exist"))
        })
    }

    fn bind(&mut self, portal: &[u8], statement: &[u8], values: u16, formats: Vec<Format>) -> Step {
        let statement = self.statement(statement)?.clone();
        if values > 0 {
            let text = format!("bind message supplies {values} parameters, but the statement requires 0");
            return Err(ConsoleError::new(sqlstate::PROTOCOL_VIOLATION, text));
        }
        let columns = statement.columns().len();
        if formats.len() > 1 && formats.len() != columns {
            let count = formats.len();
            let text = format!("bind message has {count} result formats but query has {columns} columns");
            return Err(ConsoleError::new(sqlstate::PROTOCOL_VIOLATION, text));
        }
        Self::insert(&mut self.portals, portal, Portal { statement, formats, answer: None })?;
        message::bind_complete(&mut self.output);
        Ok(())
    }

    fn describe(&mut self, target: Target, name: &[u8]) -> Step {
        match target {
            Target::Statement => {
                let columns = self.statement(name)?.columns();
                message::parameter_description(&mut self.output, &[]);
                frames::put_row_description(&mut self.output, columns, &[]);
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                frames::put_row_description(&mut self.output, portal.statement.columns(), &portal.formats);
            }
        }
        Ok(())
    }

    async fn execute(&mut self, name: &[u8], rows_max: usize) -> Step {
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        if portal.statement == Statement::Empty {
            message::empty_query_response(&mut self.output);
            self.portals.insert(name.to_vec(), portal);
            return Ok(());
        }
        let mut answer = match portal.answer.take() {
            Some(answer) => answer,
            None => self.run(&portal.statement).await?,
        };
        if answer.rows.len() > rows_max {
            let rest = answer.rows.split_off(rows_max);
            frames::put_rows(&mut self.output, &answer, &portal.formats);
            message::portal_suspended(&mut self.output);
            answer.rows = rest;
        } else {
            frames::put_whole(&mut self.output, &answer, &portal.formats);
            answer.rows.clear();
            answer.notices.clear();
        }
        portal.answer = Some(answer);
        self.portals.insert(name.to_vec(), portal);
        Ok(())
    }

    /// Carries out a statement that is not empty.
    async fn run(&mut self, statement: &Statement) -> ConsoleReply {
        let tag = match statement {
            Statement::Command(command) => return self.ask(command.clone()).await,
            Statement::Setting(index) => return Ok(show_setting(*index)),
            Statement::One => return Ok(show_one()),
            Statement::Empty => "",
            Statement::Accepted(tag) => tag,
            Statement::Begin => {
                if self.transaction == TransactionStatus::Idle {
                    self.transaction = TransactionStatus::Open;
                }
                "BEGIN"
            }
            Statement::End(tag) => {
                let was = std::mem::replace(&mut self.transaction, TransactionStatus::Idle);
                match tag {
                    EndTag::Commit if was != TransactionStatus::Failed => "COMMIT",
                    EndTag::Commit | EndTag::Rollback => "ROLLBACK",
                }
            }
        };
        Ok(ConsoleRows { columns: &[], rows: Vec::new(), tag: tag.into(), notices: Vec::new() })
    }

    /// Asks the console. What waits for others ends when the client cancels it, leaves, or the process
    /// stops; everything else after a time.
    async fn ask(&mut self, command: Command) -> ConsoleReply {
        let waits = matches!(&command, Command::Pooler(pooler) if pooler.waits());
        let patience = if waits { Duration::MAX } else { ANSWER_MAX };
        let interrupt = Interrupt { cancelled: CancellationToken::new(), gone: self.presence.clone() };
        let cancelled = interrupt.cancelled.clone();
        let (reply, answer) = oneshot::channel();
        let call = ConsoleCall { command, caller: self.caller.clone(), interrupt, reply };
        let asked = async {
            self.console.send(call).await.map_err(|_| ConsoleError::gone())?;
            answer.await.map_err(|_| ConsoleError::gone())?
        };
        let cancel = async {
            match &self.cancel_key {
                Some(key) => key.asked().await,
                None => std::future::pending().await,
            }
        };
        let late = tokio::time::sleep(patience.min(Duration::from_secs(u64::from(u32::MAX))));
        tokio::pin!(asked, cancel, late);
        loop {
            let has_room = self.input.len() < frontend::MESSAGE_MAX && !self.has_no_more;
            if has_room {
                self.input.reserve(READ_AHEAD);
            }
            tokio::select! {
                biased;
                answer = &mut asked => return answer,
                () = &mut cancel, if !cancelled.is_cancelled() => cancelled.cancel(),
                read = self.stream.read_buf(&mut self.input), if has_room => {
                    if !matches!(read, Ok(bytes) if bytes > 0) {
                        self.has_no_more = true;
                        self.presence.cancel();
                    }
                }
                // What does not wait is answered, also SHUTDOWN by the process that it ends.
                () = stops(&mut self.stopping), if waits => {
                    self.is_ended = true;
                    return Err(ConsoleError::new(sqlstate::ADMIN_SHUTDOWN, SHUTTING_DOWN));
                }
                () = &mut late => {
                    let error = ConsoleError::new(
                        sqlstate::OUTCOME_UNKNOWN,
                        "the console has not answered in time",
                    );
                    return Err(error.with_hint("SHOW EVENTS tells what became of it."));
                }
            }
        }
    }
}

fn invented_pid() -> i32 {
    i32::from_be_bytes(random_bytes()) & i32::MAX
}

fn no_portal(name: &[u8]) -> ConsoleError {
    ConsoleError::new("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}
