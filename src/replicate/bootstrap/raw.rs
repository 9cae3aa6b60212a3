//! A raw link driven by simple queries: for the slot, whose connection has to stay idle, and for
//! COPY, whose data passes through without being looked at.

use super::error::Error;
use crate::backend::{self, Link, Party};
use crate::wire::frame::{self, Head};
use crate::wire::report::Report;
use bytes::{Buf, Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Longest message we keep as a whole; COPY data never is.
const MESSAGE_MAX: usize = 1 << 20;
/// Bytes read at once while copying.
const REGION: usize = 256 * 1024;
/// A connection that neither sends nor takes a byte for so long is given up.
const STALL: Duration = Duration::from_secs(300);

/// The kind of back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Takes SQL.
    Sql,
    /// A walsender of the database: takes replication commands and SQL.
    Replication,
}

/// One connection.
pub(super) struct Raw {
    link: Link,
    /// Read and not looked at.
    pending: BytesMut,
}

/// A row of a simple query: texts or NULL.
pub(super) type Row = Vec<Option<String>>;

impl Raw {
    pub(super) async fn connect(
        party: &Party,
        application_name: &str,
        kind: Kind,
        within: Duration,
    ) -> Result<Self, Error> {
        let mut parameters = vec![
            ("database", party.database.as_str()),
            ("application_name", application_name),
            ("options", backend::control::SESSION_OPTIONS),
        ];
        if kind == Kind::Replication {
            parameters.push(("replication", "database"));
        }
        let mut link = backend::connect(&party.endpoint, &party.login, &parameters, within)
            .await
            .map_err(|e| Error::link("log in", e.to_string()))?;
        let pending = std::mem::take(&mut link.leftover);
        Ok(Self { link, pending })
    }

    pub(super) fn pid(&self) -> i32 {
        self.link.pid
    }

    /// Runs statements and returns the rows of all of them. `None` waits without a limit of our own: for
    /// a caller that watches and gives up itself.
    pub(super) async fn query(
        &mut self,
        doing: &str,
        sql: &str,
        limit: Option<Duration>,
    ) -> Result<Vec<Row>, Error> {
        let work = async {
            self.send_query(sql).await?;
            let mut rows = Vec::new();
            let mut failed = None;
            loop {
                let (tag, body) = self.message().await?;
                match tag {
                    b'D' => rows.push(row(body).ok_or("malformed DataRow")?),
                    b'E' => failed = Some(Failure::from(Report::new(body))),
                    b'Z' => return failed.map_or(Ok(rows), Err),
                    // Descriptions, tags, notices, settings: nothing we need.
                    b'T' | b'C' | b'N' | b'S' | b'I' => {}
                    other => return Err(Failure::new(format!("unexpected message 0x{other:02x}"))),
                }
            }
        };
        match limit {
            None => work.await,
            Some(limit) => timeout(limit, work).await.unwrap_or_else(|_| Err("no answer in time".into())),
        }
        .map_err(|failure| failure.while_doing(doing.to_owned()))
    }

    async fn send_query(&mut self, sql: &str) -> Result<(), Failure> {
        let length = i32::try_from(sql.len() + 5).map_err(|_| "statement too long")?;
        let mut message = Vec::with_capacity(sql.len() + 6);
        message.push(b'Q');
        message.extend(length.to_be_bytes());
        message.extend(sql.as_bytes());
        message.push(0);
        self.write(&message).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = async {
            self.link.stream.write_all(bytes).await?;
            self.link.stream.flush().await
        };
        Ok(timeout(STALL, sent).await.map_err(|_| "the server takes no bytes")??)
    }

    async fn message(&mut self) -> Result<(u8, Bytes), Failure> {
        loop {
            match frame::head(&self.pending) {
                Head::Frame { tag, total } if total <= MESSAGE_MAX => {
                    if self.pending.len() >= total {
                        let mut message = self.pending.split_to(total).freeze();
                        message.advance(frame::HEADER);
                        return Ok((tag, message));
                    }
                }
                Head::Frame { tag, total } => {
                    return Err(Failure::new(format!("message 0x{tag:02x} of {total} bytes")));
                }
                Head::Bad { tag, length } => {
                    return Err(Failure::new(format!("message 0x{tag:02x} with length {length}")));
                }
                Head::Partial => {}
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        self.pending.reserve(REGION);
        match self.link.stream.read_buf(&mut self.pending).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }

    /// Waits for one of two kinds of message, passing over notices; an error of the server ends
    /// the wait when the server is ready again.
    async fn expect(&mut self, tag: u8) -> Result<Bytes, Failure> {
        let work = async {
            loop {
                let (found, body) = self.message().await?;
                match found {
                    b'E' => {
                        let failure = Failure::from(Report::new(body));
                        while self.message().await?.0 != b'Z' {}
                        return Err(failure);
                    }
                    found if found == tag => return Ok(body),
                    b'N' | b'S' => {}
                    other => return Err(Failure::new(format!("unexpected message 0x{other:02x}"))),
                }
            }
        };
        timeout(STALL, work).await.map_err(|_| "no answer in time")?
    }
}

/// Why a step failed, in words.
struct Failure {
    why: String,
    sqlstate: Option<String>,
}

impl Failure {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), sqlstate: None }
    }

    fn while_doing(self, doing: String) -> Error {
        Error::Link { doing, why: self.why, sqlstate: self.sqlstate }
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Failure::new(why)
    }
}

impl From<std::io::Error> for Failure {
    fn from(source: std::io::Error) -> Self {
        Failure::new(source.to_string())
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self { why: report.to_string(), sqlstate: Some(report.code().into_owned()) }
    }
}

fn row(mut body: Bytes) -> Option<Row> {
    let count = body.try_get_i16().ok()?;
    (0..count)
        .map(|_| match usize::try_from(body.try_get_i32().ok()?) {
            Err(_) => Some(None),
            Ok(length) if length <= body.len() => {
                Some(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()))
            }
            Ok(_) => None,
        })
        .collect()
}

/// Streams `COPY … TO STDOUT` on one server into `COPY … FROM STDIN` on another. The source's
/// CopyData messages are valid on the other side as they are, so whole regions of them pass through
/// and only their headers are read. Returns the number of rows the target took; `on_bytes` hears
/// of each region.
pub(super) async fn pump(
    doing: &str,
    (source, out): (&mut Raw, &str),
    (target, into): (&mut Raw, &str),
    on_bytes: impl Fn(u64),
) -> Result<u64, Error> {
    let failed = |side: &str, failure: Failure| failure.while_doing(format!("{doing} ({side})"));
    source.send_query(out).await.map_err(|e| failed("source", e))?;
    source.expect(b'H').await.map_err(|e| failed("source", e))?;
    target.send_query(into).await.map_err(|e| failed("target", e))?;
    target.expect(b'G').await.map_err(|e| failed("target", e))?;
    let mut walk = Walk::default();
    loop {
        let step = walk.step(&source.pending);
        if step.data > 0 {
            // The target says nothing before it has taken all, unless it failed; its words wait for us.
            let region = source.pending.split_to(step.data);
            let sent = timeout(STALL, target.link.stream.write_all(&region)).await;
            sent.map_err(|_| failed("target", "it takes no bytes".into()))?
                .map_err(|e| failed("target", e.into()))?;
            on_bytes(region.len() as u64);
        }
        match step.then {
            Then::More => {
                tokio::select! {
                    biased;
                    read = target.fill() => {
                        read.map_err(|e| failed("target", e))?;
                        target.refusal().await.map_err(|e| failed("target", e))?;
                    }
                    read = timeout(STALL, source.fill()) => {
                        read.map_err(|_| failed("source", "it sends no bytes".into()))?
                            .map_err(|e| failed("source", e))?;
                    }
                }
            }
            Then::Other if matches!(source.pending.first(), Some(b'N' | b'S')) => {
                source.message().await.map_err(|e| failed("source", e))?;
            }
            Then::Other => break,
            Then::Bad => return Err(failed("source", "malformed message".into())),
        }
    }
    // CopyDone, or the error that ends the COPY.
    if let Err(why) = source.expect(b'c').await {
        let mut fail = b"f\0\0\0\x05".to_vec();
        fail.push(0);
        target.write(&fail).await.map_err(|e| failed("target", e))?;
        return Err(failed("source", why));
    }
    target.write(b"c\0\0\0\x04").await.map_err(|e| failed("target", e))?;
    let tag = target.expect(b'C').await.map_err(|e| failed("target", e))?;
    target.expect(b'Z').await.map_err(|e| failed("target", e))?;
    source.expect(b'C').await.map_err(|e| failed("source", e))?;
    source.expect(b'Z').await.map_err(|e| failed("source", e))?;
    let tag = String::from_utf8_lossy(&tag);
    Ok(tag.trim_end_matches('\0').rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

impl Raw {
    /// Looks at what a server said in the middle of a COPY: notices are passed over, anything
    /// else means that it has given up.
    async fn refusal(&mut self) -> Result<(), Failure> {
        while !self.pending.is_empty() {
            let (tag, body) = self.message().await?;
            match tag {
                b'N' | b'S' => {}
                b'E' => return Err(Report::new(body).into()),
                other => return Err(Failure::new(format!("unexpected message 0x{other:02x}"))),
            }
        }
        Ok(())
    }
}

/// Finds the region of CopyData at the start of a buffer.
#[derive(Debug, Default)]
struct Walk {
    /// Bytes that are still to come of a message whose start was passed on.
    owed: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Bytes that may be passed on.
    data: usize,
    then: Then,
}

#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// All is data so far: read on.
    More,
    /// Another message begins behind the data.
    Other,
    /// No message at all.
    Bad,
}

impl Walk {
    fn step(&mut self, buffer: &[u8]) -> Step {
        let mut at = 0;
        loop {
            let rest = &buffer[at..];
            if self.owed > 0 {
                let taken = self.owed.min(rest.len());
                at += taken;
                self.owed -= taken;
                if self.owed > 0 {
                    return Step { data: at, then: Then::More };
                }
                continue;
            }
            match frame::head(rest) {
                Head::Partial => return Step { data: at, then: Then::More },
                Head::Frame { tag: b'd', total } => self.owed = total,
                // A server may say something else between two rows, a notice for example.
                Head::Frame { .. } => return Step { data: at, then: Then::Other },
                Head::Bad { .. } => return Step { data: at, then: Then::Bad },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag][..], &((body.len() + 4) as u32).to_be_bytes(), body].concat()
    }

    proptest! {
        #[test]
        fn data_passes_in_any_segmentation_and_stops_before_its_end(
            sizes in prop::collection::vec(0usize..2000, 0..20), cut in 1usize..700,
        ) {
            let data: Vec<u8> = sizes.iter().flat_map(|n| message(b'd', &vec![7; *n])).collect();
            let all = [data.clone(), message(b'c', b"")].concat();
            let (mut walk, mut buffer, mut passed) = (Walk::default(), Vec::new(), Vec::new());
            let mut ended = false;
            for part in all.chunks(cut) {
                buffer.extend(part);
                let step = walk.step(&buffer);
                passed.extend(buffer.drain(..step.data));
                ended |= step.then == Then::Other;
                prop_assert!(step.then != Then::Bad);
            }
            prop_assert!(ended);
            prop_assert_eq!(passed, data);
        }
    }

    #[test]
    fn an_impossible_length_is_no_data() {
        assert_eq!(Walk::default().step(b"d\0\0\0\x01xxxx"), Step { data: 0, then: Then::Bad });
    }

    #[test]
    fn rows_of_a_simple_query_are_texts_or_null() {
        let body = [&2i16.to_be_bytes()[..], &3i32.to_be_bytes(), b"abc", &(-1i32).to_be_bytes()].concat();
        assert_eq!(row(Bytes::from(body)), Some(vec![Some("abc".to_owned()), None]));
        assert_eq!(row(Bytes::from_static(b"\0\x01\0\0\0\x09a")), None);
    }
}
