//! Why a connection to a server ended. Pure.

use crate::wire::report::Report;
use std::io;

/// What the end of a connection says about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// An administrator's word: an orderly stop or restart, or `pg_terminate_backend` for this
    /// session alone. Only a probe can tell which.
    AdminStop,
    /// An immediate stop, or a crash of one server process that makes all others start anew.
    CrashRestart,
    /// The postmaster is gone and its orphans end.
    PostmasterDied,
    /// It takes no connections at the moment: starting, stopping or recovering.
    NotReady,
    /// The connection ended without a word.
    Eof,
    /// Nobody listens.
    Refused,
}

/// What a server's report, an ErrorResponse or a NoticeResponse, says about the server itself;
/// `None` for everything that concerns a statement or this session alone.
///
/// Goes by SQLSTATE and by the name of the routine (field `R`), which are never translated. Where
/// the routine is missing or unknown, as behind another proxy, the milder reading is taken: it
/// waits for a restart before it fails over. After `kill -9` a back end that is executing says
/// nothing at all; that is [`Evidence::Eof`].
pub fn evidence(report: &Report) -> Option<Evidence> {
    match (report.code().as_ref(), report.routine().as_ref()) {
        ("57P03", _) => Some(Evidence::NotReady),
        ("57P02", _) | ("57P01", "quickdie") => Some(Evidence::CrashRestart),
        // Both say "due to unexpected postmaster exit" ("be-secure.c").
        ("57P01", "secure_read" | "secure_write") => Some(Evidence::PostmasterDied),
        ("57P01", _) => Some(Evidence::AdminStop),
        _ => None,
    }
}

/// What a failed read, write or connect says about the server; `None` when it says nothing, such
/// as being out of file descriptors.
pub fn evidence_of_io(error: &io::Error) -> Option<Evidence> {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Some(Evidence::Refused),
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected => Some(Evidence::Eof),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// Bodies as PostgreSQL 15 sent them.
    #[test]
    fn last_words_tell_stops_crashes_and_deaths_apart() {
        let check = |body: &'static [u8], expected| {
            let report = Report::new(Bytes::from_static(body));
            assert_eq!(evidence(&report), expected, "{report}");
        };
        // pg_terminate_backend, and pg_ctl stop -m fast, idle and busy alike.
        check(
            b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\
              Fpostgres.c\0L3211\0RProcessInterrupts\0\0",
            Some(Evidence::AdminStop),
        );
        // pg_ctl stop -m immediate: a notice.
        check(
            b"SWARNING\0VWARNING\0C57P01\0Mterminating connection due to immediate shutdown command\0\
              Fpostgres.c\0L2907\0Rquickdie\0\0",
            Some(Evidence::CrashRestart),
        );
        // kill -9 of a sibling: a notice.
        check(
            b"SWARNING\0VWARNING\0C57P02\0Mterminating connection because of crash of another server process\0\
              DThe postmaster has commanded this server process to roll back the current transaction and exit, \
              because another server process exited abnormally and possibly corrupted shared memory.\0\
              HIn a moment you should be able to reconnect to the database and repeat your command.\0\
              Fpostgres.c\0L2895\0Rquickdie\0\0",
            Some(Evidence::CrashRestart),
        );
        // kill -9 of the postmaster, idle; a busy one closes without a word.
        check(
            b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to unexpected postmaster exit\0\
              Fbe-secure.c\0L207\0Rsecure_read\0\0",
            Some(Evidence::PostmasterDied),
        );
        // A new connection while the server recovers.
        check(
            b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Fpostmaster.c\0L2411\0\
              RProcessStartupPacket\0\0",
            Some(Evidence::NotReady),
        );
        // Translated.
        check(
            "SFATAL\0VFATAL\0C57P01\0Mbreche Verbindung ab wegen unerwartetem Ende des Postmasters\0\
             Fbe-secure.c\0L207\0Rsecure_read\0\0"
                .as_bytes(),
            Some(Evidence::PostmasterDied),
        );
        // Another proxy's word, without a routine.
        check(b"SFATAL\0VFATAL\0C57P01\0Mserver is going away\0\0", Some(Evidence::AdminStop));
        // This session alone.
        check(b"SFATAL\0VFATAL\0C57P05\0Midle\0RProcessInterrupts\0\0", None);
        check(b"SERROR\0VERROR\0C57014\0Mcanceling statement\0RProcessInterrupts\0\0", None);
        check(b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0", None);
        check(b"SERROR\0VERROR\0C23505\0Mduplicate key\0\0", None);
        // Cut off.
        check(b"SFATAL\0VFATAL\0C57", None);
        check(b"", None);
    }

    #[test]
    fn system_errors_tell_the_server_from_ourselves() {
        let check = |kind: io::ErrorKind, expected| assert_eq!(evidence_of_io(&kind.into()), expected);
        check(io::ErrorKind::ConnectionRefused, Some(Evidence::Refused));
        check(io::ErrorKind::NotFound, Some(Evidence::Refused));
        check(io::ErrorKind::UnexpectedEof, Some(Evidence::Eof));
        check(io::ErrorKind::ConnectionReset, Some(Evidence::Eof));
        check(io::ErrorKind::PermissionDenied, None);
        check(io::ErrorKind::QuotaExceeded, None);
    }
}
