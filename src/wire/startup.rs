//! How a client opens a connection: the packets that have a length but no type.
//!
//! [`Opening`] takes bytes in whatever pieces they come and says what they ask for. It follows
//! ProcessStartupPacket of PostgreSQL, texts included ("Message Flow, Start-up").

use super::frame::cstring;
use crate::base::sqlstate;
use std::fmt;

/// Longest start-up packet, behind its length word (`MAX_STARTUP_PACKET_LENGTH`).
pub const PACKET_MAX: usize = 10_000;
/// Longest cancel key ("Message Formats, CancelRequest": protocol 3.2).
pub const CANCEL_KEY_MAX: usize = 256;
/// The newest minor version of protocol 3 that we speak.
pub const MINOR_MAX: u16 = 2;
/// Longest name of a role or database; PostgreSQL cuts longer ones here (`NAMEDATALEN`).
const NAME_MAX: usize = 63;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// TLS. Answer one byte and tell [`Opening::declined`] or start a new [`Opening::inside_tls`].
    Ssl,
    /// GSSAPI encryption, which we never do: answer `N` and tell [`Opening::declined`].
    GssEnc,
    /// TLS without asking first (libpq's `sslnegotiation=direct`). Every byte pushed so far is
    /// part of the handshake.
    DirectTls,
    /// Cancel what a session runs. Never answered.
    Cancel {
        /// Process id from BackendKeyData.
        pid: i32,
        /// Key from BackendKeyData, 4 to 256 bytes.
        secret: Vec<u8>,
    },
    /// A session.
    Start(Startup),
}

/// Whether a session is a walsender ("Streaming Replication Protocol").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary session.
    No,
    /// Physical replication, in no database.
    Physical,
    /// Logical replication, in a database.
    Logical,
}

/// A StartupMessage of protocol 3.
#[derive(Clone, PartialEq, Eq)]
pub struct Startup {
    /// The minor version asked for; what is spoken is [`Startup::minor`].
    pub asked_minor: u16,
    /// The role, cut to 63 bytes as PostgreSQL does.
    pub user: Vec<u8>,
    /// The database, cut likewise; the role's name when none was given.
    pub database: Vec<u8>,
    /// Whether it is a walsender.
    pub replication: Replication,
    /// All other settings in their order: `options`, `application_name`, `search_path`, …
    pub settings: Vec<(Vec<u8>, Vec<u8>)>,
    /// Protocol extensions asked for (`_pq_.…`); we know none.
    pub extensions: Vec<Vec<u8>>,
    /// Value of `replication` as it came; empty where it asks for none.
    replication_value: Vec<u8>,
}

/// Body of a NegotiateProtocolVersion that must be sent before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation {
    /// The minor version we go on with.
    pub minor: u16,
    /// The extensions that we do not know.
    pub unknown: Vec<Vec<u8>>,
}

impl Startup {
    /// The minor version that both sides speak.
    pub fn minor(&self) -> u16 {
        self.asked_minor.min(MINOR_MAX)
    }

    /// What has to be told before authentication, if anything: a newer version or an extension
    /// was asked for (libpq asks for 3.9999 only to see whether servers do this).
    pub fn negotiation(&self) -> Option<Negotiation> {
        (self.asked_minor > MINOR_MAX || !self.extensions.is_empty())
            .then(|| Negotiation { minor: self.minor(), unknown: self.extensions.clone() })
    }

    /// Takes out the parameters besides `user` and `database` for the link that serves this session, in
    /// their order.
    pub fn take_parameters(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut parameters = std::mem::take(&mut self.settings);
        if self.replication != Replication::No {
            parameters.insert(0, (b"replication".to_vec(), std::mem::take(&mut self.replication_value)));
        }
        parameters
    }

    /// The last value given for a setting.
    pub fn setting(&self, name: &str) -> Option<&[u8]> {
        self.settings.iter().rev().find(|(n, _)| n == name.as_bytes()).map(|(_, value)| value.as_slice())
    }
}

impl fmt::Debug for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        write!(
            f,
            "Startup(3.{} user={} database={}",
            self.asked_minor,
            text(&self.user),
            text(&self.database)
        )?;
        for (name, value) in &self.settings {
            write!(f, " {}={:?}", text(name), text(value))?;
        }
        f.write_str(")")
    }
}

/// Why a connection cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not our protocol at all: PostgreSQL hangs up without a word, and a stranger's HTTP client
    /// would not understand one. The text is for the log.
    Hangup(&'static str),
    /// To be told as a FATAL ErrorResponse.
    Told {
        /// SQLSTATE.
        code: &'static str,
        /// Field `M`.
        message: String,
        /// Field `D`.
        detail: Option<&'static str>,
        /// Field `H`.
        hint: Option<&'static str>,
    },
}

/// How far a connection has been opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A packet is awaited.
    Reading,
    /// Encryption was asked for and not answered; nothing may come before the answer.
    Asked(Encryption),
    /// A cancel, a session or TLS: bytes go elsewhere now.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Ssl,
    GssEnc,
}

/// Reads the opening packets of one connection.
#[derive(Debug)]
pub struct Opening {
    buffered: Vec<u8>,
    stage: Stage,
    may_ask_ssl: bool,
    may_ask_gssenc: bool,
}

impl Default for Opening {
    fn default() -> Self {
        Self { buffered: Vec::new(), stage: Stage::Reading, may_ask_ssl: true, may_ask_gssenc: true }
    }
}

impl Opening {
    /// A connection that has said nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same client behind a TLS handshake: neither encryption may be asked for again.
    pub fn inside_tls() -> Self {
        Self { may_ask_ssl: false, may_ask_gssenc: false, ..Self::default() }
    }

    /// Takes the next bytes, `Ok(None)` as long as they are not enough. Bytes that come before an
    /// asked-for encryption was answered are an attack or a fault and end the connection
    /// (the class of CVE-2021-23214), in however many pieces they come.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Request>, Refusal> {
        if bytes.is_empty() {
            return Ok(None);
        }
        match self.stage {
            Stage::Asked(what) => return Err(glued(what)),
            Stage::Done => {
                self.buffered.extend_from_slice(bytes);
                return Ok(None);
            }
            Stage::Reading => self.buffered.extend_from_slice(bytes),
        }
        if self.may_ask_ssl && self.may_ask_gssenc && self.buffered[0] == TLS_HANDSHAKE {
            self.stage = Stage::Done;
            return Ok(Some(Request::DirectTls));
        }
        let Some(head) = self.buffered.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if !(8..=PACKET_MAX + 4).contains(&length) {
            return Err(Refusal::Hangup("invalid length of startup packet"));
        }
        if self.buffered.len() < length {
            return Ok(None);
        }
        let rest = self.buffered.split_off(length);
        let packet = std::mem::replace(&mut self.buffered, rest);
        let request = self.read(&packet[4..])?;
        match request {
            Request::Ssl => self.ask(Encryption::Ssl)?,
            Request::GssEnc => self.ask(Encryption::GssEnc)?,
            Request::DirectTls | Request::Cancel { .. } | Request::Start(_) => self.stage = Stage::Done,
        }
        Ok(Some(request))
    }

    /// `N` has been sent: the client goes on in clear text.
    pub fn declined(&mut self) {
        assert!(matches!(self.stage, Stage::Asked(_)), "nothing was asked: {:?}", self.stage);
        self.stage = Stage::Reading;
    }

    /// What came behind the last packet, or the handshake's first bytes after
    /// [`Request::DirectTls`].
    pub fn into_rest(self) -> Vec<u8> {
        self.buffered
    }

    fn ask(&mut self, what: Encryption) -> Result<(), Refusal> {
        self.stage = Stage::Asked(what);
        match what {
            Encryption::Ssl => self.may_ask_ssl = false,
            Encryption::GssEnc => self.may_ask_gssenc = false,
        }
        if self.buffered.is_empty() { Ok(()) } else { Err(glued(what)) }
    }

    /// `packet` holds at least the four bytes of the code.
    fn read(&self, packet: &[u8]) -> Result<Request, Refusal> {
        let (code, body) = packet.split_first_chunk::<4>().expect("the length was checked");
        match u32::from_be_bytes(*code) {
            CANCEL_REQUEST => read_cancel(body),
            // Asked a second time they fall through to the version check, as in PostgreSQL.
            SSL_REQUEST if self.may_ask_ssl && body.is_empty() => Ok(Request::Ssl),
            GSSENC_REQUEST if self.may_ask_gssenc && body.is_empty() => Ok(Request::GssEnc),
            version if version >> 16 == 3 => read_startup(version as u16, body).map(Request::Start),
            version => Err(told(
                sqlstate::NOT_SUPPORTED,
                format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0 to 3.{MINOR_MAX}",
                    version >> 16,
                    version & 0xffff
                ),
            )),
        }
    }
}

fn read_cancel(body: &[u8]) -> Result<Request, Refusal> {
    match body.split_first_chunk::<4>() {
        Some((pid, secret)) if (4..=CANCEL_KEY_MAX).contains(&secret.len()) => {
            Ok(Request::Cancel { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() })
        }
        Some(_) | None => Err(Refusal::Hangup("invalid length of query cancel packet")),
    }
}

fn read_startup(asked_minor: u16, body: &[u8]) -> Result<Startup, Refusal> {
    let mut user = Vec::new();
    let mut database = Vec::new();
    let mut startup = Startup {
        asked_minor,
        user: Vec::new(),
        database: Vec::new(),
        replication: Replication::No,
        settings: Vec::new(),
        extensions: Vec::new(),
        replication_value: Vec::new(),
    };
    let mut rest = body;
    let layout = || {
        told(sqlstate::PROTOCOL_VIOLATION, "invalid startup packet layout: expected terminator as last byte")
    };
    while rest != [0] {
        let (name, after) = cstring(rest).ok_or_else(layout)?;
        // An empty name is the terminator, and nothing may follow it.
        if name.is_empty() {
            return Err(layout());
        }
        let (value, after) = cstring(after).ok_or_else(layout)?;
        rest = after;
        match name {
            b"user" => user = value.to_vec(),
            b"database" => database = value.to_vec(),
            b"replication" => {
                startup.replication = replication(value)?;
                let is_asked = startup.replication != Replication::No;
                startup.replication_value = if is_asked { value.to_vec() } else { Vec::new() };
            }
            _ if name.starts_with(b"_pq_.") => startup.extensions.push(name.to_vec()),
            _ => startup.settings.push((name.to_vec(), value.to_vec())),
        }
    }
    if user.is_empty() {
        return Err(told(
            sqlstate::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    user.truncate(NAME_MAX);
    database.truncate(NAME_MAX);
    startup.database = if database.is_empty() { user.clone() } else { database };
    startup.user = user;
    Ok(startup)
}

/// `database`, or a boolean in any spelling PostgreSQL takes (`parse_bool`).
fn replication(value: &[u8]) -> Result<Replication, Refusal> {
    let lower = value.to_ascii_lowercase();
    let abbreviates = |word: &str| !lower.is_empty() && word.as_bytes().starts_with(&lower);
    if value == b"database" {
        Ok(Replication::Logical)
    } else if abbreviates("true") || abbreviates("yes") || lower == b"on" || lower == b"1" {
        Ok(Replication::Physical)
    } else if abbreviates("false") || abbreviates("no") || lower == b"of" || lower == b"off" || lower == b"0"
    {
        Ok(Replication::No)
    } else {
        Err(Refusal::Told {
            code: sqlstate::INVALID_PARAMETER,
            message: format!(
                "invalid value for parameter \"replication\": \"{}\"",
                String::from_utf8_lossy(value)
            ),
            detail: None,
            hint: Some("Valid values are: \"false\", 0, \"true\", 1, \"database\"."),
        })
    }
}

fn glued(what: Encryption) -> Refusal {
    let request = match what {
        Encryption::Ssl => "SSL",
        Encryption::GssEnc => "GSSAPI encryption",
    };
    Refusal::Told {
        code: sqlstate::PROTOCOL_VIOLATION,
        message: format!("received unencrypted data after {request} request"),
        detail: Some(
            "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
        ),
        hint: None,
    }
}

fn told(code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::Told { code, message: message.into(), detail: None, hint: None }
}

#[cfg(test)]
mod tests;
