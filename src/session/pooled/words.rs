//! What the pooled modes have to say to clients.

use crate::base::sqlstate;
use crate::pool::Limit;
use crate::wire::message::{Complaint, Severity};

/// No link was free in time, perhaps because of a limit.
pub fn query_wait_timeout(limit: Option<Limit>) -> Complaint {
    let why = limit.map_or("No server connection was free in time".to_owned(), |limit| limit.to_string());
    Complaint::fatal(sqlstate::TOO_MANY_CONNECTIONS, "query_wait_timeout")
        .detail(format!("{why}. The statement was not executed."))
        .hint("Try again later, keep transactions shorter, or raise the limit.")
}

/// Statement mode has no transactions.
pub fn no_transaction_blocks() -> Complaint {
    Complaint::fatal(sqlstate::NOT_SUPPORTED, "transaction blocks not allowed in statement pooling mode")
}

/// A name of a statement or portal without an end.
pub const ENDLESS_NAME: &str = "a name is too long";

/// The client has sent a Sync into COPY data that the server had refused, or had not.
pub const LOST_IN_COPY: &str = "cannot follow a Sync in the middle of COPY data that the server has refused";

/// In transaction mode something is given up with the transaction.
pub fn given_up(what: &str) -> Complaint {
    Complaint::new(
        Severity::Warning,
        sqlstate::WARNING,
        format!("{what} will not survive this transaction in transaction pooling mode"),
    )
    .hint("Use pool.mode = \"auto\" or \"session\" for clients that need it.")
}
