//! Why there is no link.

use crate::base::Retry;
use crate::wire::report::Report;
use crate::wire::scram;
use std::io;
use std::time::Duration;

/// Why a server could not be logged in to. Nothing has been executed in any case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said why, in its own words.
    #[error("{at}: {report}")]
    Server {
        /// Address of the server.
        at: String,
        /// Every field it sent.
        report: Report,
    },
    /// No connection to the machine or the port: refused, unreachable, name not found.
    #[error("cannot connect to {at}: {source}")]
    Connect {
        /// Address of the server.
        at: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No end in time.
    #[error("cannot connect to {at}: no answer within {timeout:?}")]
    Timeout {
        /// Address of the server.
        at: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// The connection broke, or was closed, before the log-in was done.
    #[error("{at}: the connection was lost during the log-in: {source}")]
    Lost {
        /// Address of the server.
        at: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// TLS was asked for, and the server has none.
    #[error("{at}: the server does not support TLS, but sslmode demands it")]
    TlsRefused {
        /// Address of the server.
        at: String,
    },
    /// The handshake failed: a certificate that is not trusted, most often.
    #[error("{at}: TLS handshake failed: {source}")]
    Tls {
        /// Address of the server.
        at: String,
        /// What rustls says.
        #[source]
        source: io::Error,
    },
    /// What the server sent is not the protocol, or not allowed here.
    #[error("{at}: {what}")]
    Protocol {
        /// Address of the server.
        at: String,
        /// What is wrong.
        what: String,
    },
    /// The server failed to prove itself, or asked for something in SCRAM that we do not do.
    #[error("{at}: {source}")]
    Scram {
        /// Address of the server.
        at: String,
        /// What is wrong.
        #[source]
        source: scram::client::Error,
    },
    /// The server wants a proof we do not have: a password in clear text while only SCRAM keys
    /// are known, or a method we do not speak.
    #[error("{at}: the server asks role \"{user}\" for {method}, which cannot be answered here")]
    NoProof {
        /// Address of the server.
        at: String,
        /// As whom we logged in.
        user: String,
        /// What the server asked for, in words.
        method: String,
    },
    /// A start-up parameter that cannot be sent.
    #[error("a start-up parameter contains a zero byte")]
    BadParameter,
}

impl Error {
    /// Whether the same call may be made again: nothing was executed, so never `Unknown`.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Connect { .. } | Error::Timeout { .. } | Error::Lost { .. } => Retry::Safe,
            // Starting, stopping, recovering or full: another time will do.
            Error::Server { report, .. } => match report.code().as_ref() {
                "57P01" | "57P02" | "57P03" | "53300" | "53400" => Retry::Safe,
                _ => Retry::Never,
            },
            Error::TlsRefused { .. }
            | Error::Tls { .. }
            | Error::Protocol { .. }
            | Error::Scram { .. }
            | Error::NoProof { .. }
            | Error::BadParameter => Retry::Never,
        }
    }

    /// The server's own words, where it had some.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Error::Server { report, .. } => Some(report),
            _ => None,
        }
    }

    /// Whether nobody listens there: the port is refused or the socket file has no listener.
    pub fn is_refused(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Error::Connect { source, .. } if matches!(source.kind(), ConnectionRefused | NotFound))
    }
}
