//! The one table of SQLSTATEs that we choose ourselves ("PostgreSQL Error Codes"). Codes that a
//! server chose pass through unchanged.

/// A write reached a fenced side: `read_only_sql_transaction`.
pub const READ_ONLY: &str = "25006";
/// We end this connection; the client should make a new one: `admin_shutdown`.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// No server can take this connection now: `cannot_connect_now`.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// All places are taken: `too_many_connections`.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// The bytes are not PostgreSQL's protocol: `protocol_violation`.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// A statement was in flight when its server was lost: `transaction_resolution_unknown`.
pub const OUTCOME_UNKNOWN: &str = "08007";
/// The transaction is certainly rolled back and may be tried again: `serialization_failure`.
pub const TRANSACTION_ABORTED: &str = "40001";
/// Commands are ignored until the end of a failed transaction: `in_failed_sql_transaction`.
pub const IN_FAILED_TRANSACTION: &str = "25P02";
/// Wrong password, and every role that may not know more: `invalid_password`.
pub const INVALID_PASSWORD: &str = "28P01";
/// A role that may not log in this way: `invalid_authorization_specification`.
pub const INVALID_AUTHORIZATION: &str = "28000";
/// A command for administrators only: `insufficient_privilege`.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// No such mirror: `undefined_object`.
pub const UNDEFINED_OBJECT: &str = "42704";
/// A mirror of that name exists: `duplicate_object`.
pub const DUPLICATE_OBJECT: &str = "42710";
/// No such database: `invalid_catalog_name`.
pub const UNDEFINED_DATABASE: &str = "3D000";
/// A command of ours that is not written as it should be: `syntax_error`.
pub const SYNTAX_ERROR: &str = "42601";
/// A parameter with a value that cannot be: `invalid_parameter_value`.
pub const INVALID_PARAMETER: &str = "22023";
/// Something we do not do: `feature_not_supported`.
pub const NOT_SUPPORTED: &str = "0A000";
/// Not possible in the present state: `object_not_in_prerequisite_state`.
pub const NOT_IN_STATE: &str = "55000";
/// A setting that is read at the start only: `cant_change_runtime_param`.
pub const CANNOT_CHANGE_NOW: &str = "55P02";
/// Cancelled on request: `query_canceled`.
pub const QUERY_CANCELED: &str = "57014";
/// A transaction has been open for too long: `transaction_timeout`.
pub const TRANSACTION_TIMEOUT: &str = "25P04";
/// A transaction was left open for too long: `idle_in_transaction_session_timeout`.
pub const IDLE_IN_TRANSACTION: &str = "25P03";
/// A client was silent for too long: `idle_session_timeout`.
pub const IDLE_SESSION: &str = "57P05";
/// Nothing is wrong: `successful_completion`, for notices.
pub const SUCCESS: &str = "00000";
/// Went on despite a surprise: `warning`.
pub const WARNING: &str = "01000";
/// Our own fault: `internal_error`.
pub const INTERNAL: &str = "XX000";
