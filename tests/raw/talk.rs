//! Holding a conversation.

use super::message::{cancel, close_statement, copy_fail, shown, sync, terminate};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

/// Longer than anything in a conversation takes on a busy machine: then it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two pieces of a cut, so that the other side can read the first alone.
const PAUSE: Duration = Duration::from_micros(300);

/// Whom to talk to.
#[derive(Debug, Clone)]
pub enum Place {
    /// A port of 127.0.0.1.
    Tcp(u16),
    /// A socket file.
    Unix(PathBuf),
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

impl Place {
    async fn connect(&self) -> std::io::Result<(Reader, Writer)> {
        Ok(match self {
            Place::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Place::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                (Box::new(reader), Box::new(writer))
            }
        })
    }
}

/// One thing that a client does.
#[derive(Clone, PartialEq)]
pub enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits for a message of one of these types, behind the one that was waited for last.
    Await(&'static [u8]),
    /// Brings the server to where it waits for a new statement, wherever it was, and waits for that:
    /// CopyFail ends a COPY and is ignored elsewhere, Sync ends skipping, four CloseComplete in a row
    /// are in no other place.
    Settle,
    /// Sends the cancel key that it was given, and waits until the other side has closed.
    Cancel,
    /// Sends no more, and goes on reading.
    HalfClose,
    /// Closes at once.
    HangUp,
}

impl Step {
    /// How many bytes it sends.
    pub fn length(&self) -> usize {
        if let Step::Send(bytes) = self { bytes.len() } else { 0 }
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Send(bytes) => write!(f, "send {}", shown(bytes)),
            Step::Await(tags) => write!(f, "await one of {}", tags.escape_ascii()),
            Step::Settle => f.write_str("settle"),
            Step::Cancel => f.write_str("cancel"),
            Step::HalfClose => f.write_str("half-close"),
            Step::HangUp => f.write_str("hang up"),
        }
    }
}

/// How the bytes are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Each [`Step::Send`] in one piece.
    Whole,
    /// Pieces of this many bytes.
    Every(usize),
    /// Two pieces: the first ends behind this many bytes of all that is sent.
    Once(usize),
    /// Pieces of a few lengths that follow from a number.
    Seeded(u64),
}

/// A message from the other side.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = self.body.len().min(200);
        write!(f, "{} {}", self.tag as char, self.body[..cut].escape_ascii())?;
        if cut < self.body.len() { write!(f, "… ({} bytes)", self.body.len()) } else { Ok(()) }
    }
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client hung up.
    HungUp,
    /// The other side closed.
    Closed,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Up to the first ReadyForQuery.
    pub welcome: Vec<Frame>,
    /// Everything behind it.
    pub frames: Vec<Frame>,
    /// Bytes behind the last message.
    pub rest: Vec<u8>,
    pub end: End,
}

impl Heard {
    /// The types of the messages.
    pub fn tags(&self) -> String {
        self.frames.iter().map(|frame| frame.tag as char).collect()
    }
}

struct Ear {
    frames: mpsc::UnboundedReceiver<Frame>,
    heard: Vec<Frame>,
    /// Where to look for what is awaited next.
    next: usize,
}

impl Ear {
    /// Waits until the messages behind `next` satisfy `is_there`, which says how many they are.
    async fn wait(&mut self, is_there: impl Fn(&[Frame]) -> Option<usize>, what: &str) -> Result<(), String> {
        let waiting = async {
            loop {
                if let Some(count) = is_there(&self.heard[self.next..]) {
                    self.next += count;
                    return Ok(());
                }
                match self.frames.recv().await {
                    Some(frame) => self.heard.push(frame),
                    None => return Err(()),
                }
                while let Ok(frame) = self.frames.try_recv() {
                    self.heard.push(frame);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            // It closed: that is an answer too, and nothing more will come.
            Ok(Ok(()) | Err(())) => Ok(()),
            Err(_) => Err(format!("waited for {what} behind {:?}", &self.heard[self.next..])),
        }
    }
}

/// Reads messages to the end of the stream; gives what is left behind the last one.
async fn listen(mut reader: Reader, frames: mpsc::UnboundedSender<Frame>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut more = vec![0; 64 << 10];
    loop {
        match reader.read(&mut more).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&more[..n]),
            Ok(_) | Err(_) => return bytes,
        }
        let mut at = 0;
        while let Some(&[tag, a, b, c, d]) = bytes[at..].first_chunk::<5>() {
            let total = 1 + u32::from_be_bytes([a, b, c, d]) as usize;
            if bytes.len() < at + total || total < 5 {
                break;
            }
            let _ = frames.send(Frame { tag, body: bytes[at + 5..at + total].to_vec() });
            at += total;
        }
        bytes.drain(..at);
    }
}

struct Mouth {
    writer: Option<Writer>,
    cut: Cut,
    sent: usize,
}

impl Mouth {
    /// Sends bytes as they are cut. The other side may have closed: what it says is what counts.
    async fn say(&mut self, bytes: &[u8]) {
        let Some(writer) = &mut self.writer else { return };
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = match self.cut {
                Cut::Whole => rest.len(),
                Cut::Every(size) => size.min(rest.len()),
                Cut::Once(at) if self.sent < at => (at - self.sent).min(rest.len()),
                Cut::Once(_) => rest.len(),
                Cut::Seeded(seed) => {
                    let mixed = (seed ^ self.sent as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                    let sizes = [1, 2, 3, 4, 5, 6, 9, 17, 60, 500, 5_000, 40_000];
                    sizes[(mixed % sizes.len() as u64) as usize].min(rest.len())
                }
            };
            let (piece, tail) = rest.split_at(length);
            if writer.write_all(piece).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            self.sent += length;
            rest = tail;
            if !rest.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Logs in with `startup`, which must need no password, and goes through the steps; at the end it
/// says Terminate and reads to the end, unless it has hung up. Fails when an answer does not come.
pub async fn converse(place: &Place, startup: &[u8], steps: &[Step], cut: Cut) -> Result<Heard, String> {
    let (reader, writer) = place.connect().await.map_err(|error| format!("cannot connect: {error}"))?;
    let (frames, receiver) = mpsc::unbounded_channel();
    let listening = tokio::spawn(listen(reader, frames));
    let mut ear = Ear { frames: receiver, heard: Vec::new(), next: 0 };
    let mut mouth = Mouth { writer: Some(writer), cut: Cut::Whole, sent: 0 };
    mouth.say(startup).await;
    ear.wait(|frames| frames.iter().position(|frame| frame.tag == b'Z').map(|at| at + 1), "a welcome")
        .await?;
    let welcome: Vec<Frame> = ear.heard.drain(..ear.next).collect();
    ear.next = 0;
    mouth.cut = cut;
    let mut end = End::Closed;
    for step in steps {
        match step {
            Step::Send(bytes) => mouth.say(bytes).await,
            Step::Await(tags) => {
                let found = |frames: &[Frame]| {
                    frames.iter().position(|frame| tags.contains(&frame.tag)).map(|at| at + 1)
                };
                ear.wait(found, &format!("one of {}", tags.escape_ascii())).await?;
            }
            Step::Settle => {
                let close = close_statement("not there");
                let bytes = [copy_fail("settle"), sync(), close.repeat(4), sync()].concat();
                mouth.say(&bytes).await;
                let found = |frames: &[Frame]| {
                    let is_mark = |five: &[Frame]| five.iter().map(|f| f.tag).eq(*b"3333Z");
                    frames.windows(5).position(is_mark).map(|at| at + 5)
                };
                ear.wait(found, "everything to settle").await?;
            }
            Step::Cancel => {
                let key = welcome.iter().find(|frame| frame.tag == b'K').ok_or("no cancel key")?;
                let (pid, secret) = key.body.split_first_chunk::<4>().ok_or("half a cancel key")?;
                let (mut reader, mut writer) = place.connect().await.map_err(|error| error.to_string())?;
                writer
                    .write_all(&cancel(i32::from_be_bytes(*pid), secret))
                    .await
                    .map_err(|e| e.to_string())?;
                let mut said = Vec::new();
                let reading = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut said));
                if reading.await.is_err() || !said.is_empty() {
                    return Err("a cancel is not answered, and its connection closed".to_owned());
                }
            }
            Step::HalfClose => {
                if let Some(mut writer) = mouth.writer.take() {
                    let _ = writer.shutdown().await;
                }
            }
            Step::HangUp => {
                mouth.writer = None;
                end = End::HungUp;
                break;
            }
        }
    }
    if end == End::HungUp {
        listening.abort();
        return Ok(Heard { welcome, frames: ear.heard, rest: Vec::new(), end });
    }
    mouth.say(&terminate()).await;
    if let Some(mut writer) = mouth.writer.take() {
        let _ = writer.shutdown().await;
    }
    let reading = async {
        while let Some(frame) = ear.frames.recv().await {
            ear.heard.push(frame);
        }
    };
    if tokio::time::timeout(PATIENCE, reading).await.is_err() {
        return Err(format!("not closed after Terminate, behind {:?}", ear.heard));
    }
    let rest = listening.await.map_err(|error| error.to_string())?;
    Ok(Heard { welcome, frames: ear.heard, rest, end })
}
