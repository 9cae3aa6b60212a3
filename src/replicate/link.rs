//! The replication connection: commands, then the stream, its two halves apart.
//!
//! Reading and answering are separate, because the walsender gives up a silent subscriber after
//! `wal_sender_timeout` even when that is silent only since its target is slow: [`Frames`] may
//! stop reading for as long as it likes while `feedback` goes on.

use super::error::Error;
use crate::backend::control::SESSION_OPTIONS;
use crate::backend::{self, Party};
use crate::base::{Lsn, SlotName};
use crate::sys::Socket;
use crate::wire::frame::{self, HEADER, Head};
use crate::wire::replication::{self, Frame, IDENTIFY_SYSTEM, ValueForm};
use crate::wire::report::Report;
use bytes::{Buf, Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// Bytes asked for at once.
const READ_SIZE: usize = 64 * 1024;

/// A walsender of the source's database that takes commands.
#[derive(Debug)]
pub struct ReplicationLink {
    frames: Messages<Socket>,
    patience: Duration,
}

/// Who the source is ("IDENTIFY_SYSTEM").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Identifier of the cluster: its physical copies share it.
    pub system: String,
    /// Its timeline: raised by a promotion.
    pub timeline: i32,
    /// How far its log is flushed.
    pub at: Lsn,
}

impl ReplicationLink {
    /// Connects and logs in; `patience` is also how long each command may take.
    pub async fn connect(
        party: &Party,
        application_name: &str,
        patience: Duration,
    ) -> Result<ReplicationLink, Error> {
        let parameters = [
            ("database", party.database.as_str()),
            ("replication", "database"),
            ("application_name", application_name),
            ("options", SESSION_OPTIONS),
        ];
        let link = backend::connect(&party.endpoint, &party.login, &parameters, patience).await?;
        let frames = Messages { stream: link.stream, input: link.leftover };
        Ok(ReplicationLink { frames, patience })
    }

    /// Asks who the server is.
    pub async fn identify(&mut self) -> Result<Identified, Error> {
        let doing = "ask the server who it is";
        let rows = self.rows(doing, IDENTIFY_SYSTEM).await?;
        let field = |n: usize| rows.first().and_then(|row| row.get(n)).and_then(Option::as_deref);
        let found = (|| {
            Some(Identified {
                system: field(0)?.to_owned(),
                timeline: field(1)?.parse().ok()?,
                at: field(2)?.parse().ok()?,
            })
        })();
        found.ok_or_else(|| Error::Lost { why: "the answer to IDENTIFY_SYSTEM is not one".to_owned() })
    }

    /// Starts the stream behind `from`, or behind what the slot has confirmed if that is later.
    pub async fn start(
        mut self,
        slot: &SlotName,
        from: Lsn,
        publications: &[String],
        form: ValueForm,
    ) -> Result<(Frames, WriteHalf<Socket>), Error> {
        let command = replication::start(slot, from, publications, form);
        self.send(&command).await?;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'W' => break,
                b'E' => return Err(start_refused(slot, Report::new(body))),
                b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
        let (reader, writer) = tokio::io::split(self.frames.stream);
        Ok((Frames(Messages { stream: reader, input: self.frames.input }), writer))
    }

    /// Runs one command and returns its rows as texts.
    async fn rows(&mut self, doing: &'static str, command: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        self.send(command).await?;
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'D' => rows.push(row(body).ok_or_else(|| unexpected(tag))?),
                b'E' => refused = Some(Report::new(body)),
                b'Z' => break,
                b'T' | b'C' | b'N' | b'S' => {}
                other => return Err(unexpected(other)),
            }
        }
        refused.map_or(Ok(rows), |report| Err(Error::Refused { doing, report }))
    }

    async fn send(&mut self, command: &str) -> Result<(), Error> {
        let length = u32::try_from(command.len() + 5).expect("commands are short");
        let mut message = vec![b'Q'];
        message.extend(length.to_be_bytes());
        message.extend(command.as_bytes());
        message.push(0);
        let sent = async {
            self.frames.stream.write_all(&message).await?;
            self.frames.stream.flush().await
        };
        timeout(self.patience, sent)
            .await
            .map_err(|_| Error::Silent { silence: self.patience })?
            .map_err(lost)
    }

    async fn message(&mut self) -> Result<(u8, Bytes), Error> {
        timeout(self.patience, self.frames.next())
            .await
            .unwrap_or(Err(Error::Silent { silence: self.patience }))
    }
}

/// The reading half of a stream.
#[derive(Debug)]
pub struct Frames(Messages<ReadHalf<Socket>>);

impl Frames {
    /// The next frame. Dropping the future loses nothing. Fails when the walsender ends the
    /// stream, in whatever way.
    pub async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let (tag, body) = self.0.next().await?;
            if let Some(frame) = on_message(tag, body)? {
                return Ok(frame);
            }
        }
    }

    /// The next frame, if it has been read from the socket already.
    pub fn next_buffered(&mut self) -> Result<Option<Frame>, Error> {
        while let Some((tag, body)) = self.0.take()? {
            if let Some(frame) = on_message(tag, body)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

fn on_message(tag: u8, body: Bytes) -> Result<Option<Frame>, Error> {
    match tag {
        b'd' => Ok(Some(replication::frame(body)?)),
        b'N' | b'S' => Ok(None),
        b'E' => Err(Error::Refused { doing: "go on with the stream", report: Report::new(body) }),
        b'c' => Err(Error::Lost { why: "the walsender ended the stream".to_owned() }),
        other => Err(unexpected(other)),
    }
}

/// Messages out of a stream of bytes.
#[derive(Debug)]
struct Messages<S> {
    stream: S,
    input: BytesMut,
}

impl<S: AsyncRead + Unpin> Messages<S> {
    async fn next(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            // Grows with what arrives, never with what a length claims.
            self.input.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.input).await.map_err(lost)? == 0 {
                return Err(Error::Lost { why: "the server closed it".to_owned() });
            }
        }
    }

    fn take(&mut self) -> Result<Option<(u8, Bytes)>, Error> {
        match frame::head(&self.input) {
            Head::Frame { tag, total } if total <= self.input.len() => {
                let mut body = self.input.split_to(total).freeze();
                body.advance(HEADER);
                Ok(Some((tag, body)))
            }
            Head::Frame { .. } | Head::Partial => Ok(None),
            Head::Bad { tag, length } => {
                Err(Error::Lost { why: format!("a message of type {tag:#04x} claims {length} bytes") })
            }
        }
    }
}

fn start_refused(slot: &SlotName, report: Report) -> Error {
    let why = report.message().into_owned();
    let code = report.code().into_owned();
    match code.as_str() {
        "55006" => Error::SlotBusy { slot: slot.clone(), why },
        "42704" | "55000" => Error::SlotLost { slot: slot.clone(), why },
        _ => Error::Refused { doing: "start the stream", report },
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::Lost { why: error.to_string() }
}

fn unexpected(tag: u8) -> Error {
    Error::Lost { why: format!("unexpected message of type {tag:#04x}") }
}

fn row(mut body: Bytes) -> Option<Vec<Option<String>>> {
    let count = body.try_get_i16().ok()?;
    (0..count)
        .map(|_| {
            let Ok(length) = usize::try_from(body.try_get_i32().ok()?) else { return Some(None) };
            if length > body.len() {
                return None;
            }
            Some(Some(String::from_utf8_lossy(&body.split_to(length)).into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pgoutput::PgTime;

    fn keepalive(end: u64) -> Vec<u8> {
        let mut m = vec![b'd'];
        m.extend(22u32.to_be_bytes());
        m.push(b'k');
        m.extend(end.to_be_bytes());
        m.extend(0u64.to_be_bytes());
        m.push(0);
        m
    }

    #[tokio::test]
    async fn frames_survive_any_segmentation_and_dropped_futures() {
        let (mut server, client) = tokio::io::duplex(64);
        let mut messages = Messages { stream: client, input: BytesMut::new() };
        let all = [keepalive(1), keepalive(2)].concat();
        for byte in &all[..all.len() - 1] {
            server.write_all(&[*byte]).await.unwrap();
            // Polled once and dropped, each time.
            let _ = futures_util::poll!(std::pin::pin!(async {
                if messages.input.len() < 23 {
                    let _ = messages.next().await;
                }
            }));
        }
        server.write_all(&all[all.len() - 1..]).await.unwrap();
        drop(server);
        let mut ends = Vec::new();
        while let Ok((_, body)) = messages.next().await {
            let Ok(Frame::Keepalive { end, sent_at: PgTime(0), .. }) = replication::frame(body) else {
                panic!("not a keepalive")
            };
            ends.push(end.0);
        }
        assert!(ends.ends_with(&[2]), "{ends:?}");
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_stream() {
        let mut m = Messages { stream: (), input: BytesMut::from(&b"d\0\0\0\x01xx"[..]) };
        assert!(take_of(&mut m).is_err());
    }

    fn take_of(m: &mut Messages<()>) -> Result<(), Error> {
        let mut real = Messages { stream: tokio::io::empty(), input: std::mem::take(&mut m.input) };
        real.take().map(|_| ())
    }
}
