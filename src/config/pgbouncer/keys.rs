//! PgBouncer's settings: which of ours each one is.

/// How a value of PgBouncer's becomes one of ours, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The same word.
    Word,
    /// A number.
    Number,
    /// A number; 0 is "no limit", which we say by leaving the key out.
    Limit,
    /// Seconds, with a fraction if need be; 0 turns it off here and there.
    Seconds,
    /// Seconds; 0 is "never", for which ours has the longest time there is.
    SecondsOrNever,
    /// Seconds; 0 leaves it to the system, which we say by leaving the key out.
    SecondsOrDefault,
    /// Milliseconds; 0 leaves it to the system.
    Milliseconds,
    /// 0 or 1.
    Switch,
    /// Names, separated by commas.
    Names,
}

/// What a setting means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// This key of ours.
    Key(&'static str, Turn),
    /// Several keys together, or one that needs a closer look.
    Special,
    /// Nothing is lost without it, for this reason.
    Moot(&'static str),
    /// It has no counterpart, and this is the difference.
    Missing(&'static str),
}

/// One of PgBouncer's settings.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What PgBouncer 1.25 takes without it; `None` where it has none.
    pub default: Option<&'static str>,
    /// What it means here.
    pub meaning: Meaning,
}

/// Looks a setting up.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(name: &'static str, default: &'static str, ours: &'static str, turn: Turn) -> Key {
    Key { name, default: Some(default), meaning: Meaning::Key(ours, turn) }
}

const fn special(name: &'static str, default: Option<&'static str>) -> Key {
    Key { name, default, meaning: Meaning::Special }
}

const fn moot(name: &'static str, default: &'static str, why: &'static str) -> Key {
    Key { name, default: Some(default), meaning: Meaning::Moot(why) }
}

const fn missing(name: &'static str, default: &'static str, why: &'static str) -> Key {
    Key { name, default: Some(default), meaning: Meaning::Missing(why) }
}

const TO_STDERR: &str = "everything is logged on standard error; systemd or a supervisor keeps it";
const BY_SYSTEM: &str = "names are looked up by the system";
const NO_CIPHERS: &str = "TLS 1.2 and 1.3 with the library's own choice of ciphers";

/// All of PgBouncer 1.25's settings, in its own order.
pub const KEYS: &[Key] = &[
    key("admin_users", "", "auth.admin_users", Turn::Names),
    missing("application_name_add_host", "0", "application_name reaches the server as the client sent it"),
    special("auth_dbname", None),
    special("auth_file", None),
    special("auth_hba_file", Some("")),
    special("auth_ident_file", None),
    missing("auth_ldap_options", "", "LDAP is not spoken"),
    special("auth_query", None),
    special("auth_type", Some("md5")),
    special("auth_user", None),
    moot("autodb_idle_timeout", "3600", "pools that nobody uses cost nothing"),
    key("cancel_wait_timeout", "10", "pool.cancel_wait_timeout", Turn::Seconds),
    key("client_idle_timeout", "0", "pool.client_idle_timeout", Turn::Seconds),
    key("client_login_timeout", "60", "pool.client_login_timeout", Turn::SecondsOrNever),
    missing("client_tls13_ciphers", "", NO_CIPHERS),
    special("client_tls_ca_file", Some("")),
    special("client_tls_cert_file", Some("")),
    missing("client_tls_ciphers", "default", NO_CIPHERS),
    moot("client_tls_dheparams", "auto", NO_CIPHERS),
    moot("client_tls_ecdhcurve", "auto", NO_CIPHERS),
    special("client_tls_key_file", Some("")),
    missing("client_tls_protocols", "secure", NO_CIPHERS),
    special("client_tls_sslmode", Some("disable")),
    moot("conffile", "", "RELOAD reads the file of the command line"),
    key("default_pool_size", "20", "pool.size", Turn::Limit),
    missing("disable_pqexec", "0", "the simple query protocol stays on"),
    moot("dns_max_ttl", "15", BY_SYSTEM),
    moot("dns_nxdomain_ttl", "15", BY_SYSTEM),
    moot("dns_zone_check_period", "0", BY_SYSTEM),
    key("idle_transaction_timeout", "0", "pool.idle_transaction_timeout", Turn::Seconds),
    moot("ignore_startup_parameters", "", "every start-up parameter reaches the server"),
    moot("job_name", "pgbouncer", "for Windows only"),
    special("listen_addr", Some("")),
    key("listen_backlog", "128", "listen.backlog", Turn::Number),
    special("listen_port", Some("6432")),
    moot("log_connections", "1", "connections are logged at log.level = \"debug\""),
    moot("log_disconnections", "1", "connections are logged at log.level = \"debug\""),
    moot("log_pooler_errors", "1", "refusals are logged at log.level = \"debug\""),
    moot("log_stats", "1", "counters are in SHOW STATS and at /metrics"),
    moot("logfile", "", TO_STDERR),
    missing("login_notify_message", "", "no NOTICE is sent at a log-in"),
    key("max_client_conn", "100", "pool.max_client_conn", Turn::Number),
    key("max_db_client_connections", "0", "pool.max_db_client_connections", Turn::Limit),
    key("max_db_connections", "0", "pool.max_db_connections", Turn::Limit),
    missing("max_packet_size", "2147483647", "messages of any length are passed on without being kept"),
    key("max_prepared_statements", "200", "pool.max_prepared_statements", Turn::Limit),
    key("max_user_client_connections", "0", "pool.max_user_client_connections", Turn::Limit),
    key("max_user_connections", "0", "pool.max_user_connections", Turn::Limit),
    key("min_pool_size", "0", "pool.min_size", Turn::Number),
    missing("peer_id", "0", "a cancel reaches the process that it is meant for only if that one accepts it"),
    moot("pidfile", "", "the pid is in the file lock of the state directory"),
    moot("pkt_buf", "4096", "an idle client has no buffer"),
    key("pool_mode", "session", "pool.mode", Turn::Word),
    moot("pool_idle_timeout", "0", "pools that nobody uses cost nothing"),
    key("query_timeout", "0", "pool.query_timeout", Turn::Seconds),
    key("query_wait_notify", "5", "pool.query_wait_notify", Turn::Seconds),
    key("query_wait_timeout", "120", "pool.query_wait_timeout", Turn::SecondsOrNever),
    key("reserve_pool_size", "0", "pool.reserve_size", Turn::Number),
    key("reserve_pool_timeout", "5", "pool.reserve_timeout", Turn::Seconds),
    moot("resolv_conf", "", BY_SYSTEM),
    moot("sbuf_loopcnt", "5", "long results cannot starve other clients"),
    moot("scram_iterations", "4096", "the verifiers of the server are used"),
    key("server_check_delay", "30", "pool.server_check_delay", Turn::Seconds),
    special("server_check_query", Some("<empty>")),
    key("server_connect_timeout", "15", "pool.server_connect_timeout", Turn::SecondsOrNever),
    missing("server_fast_close", "0", "after RECONNECT a session keeps its server until it ends"),
    key("server_idle_timeout", "600", "pool.server_idle_timeout", Turn::Seconds),
    key("server_lifetime", "3600", "pool.server_lifetime", Turn::Seconds),
    special("server_login_retry", Some("15")),
    special("server_reset_query", Some("DISCARD ALL")),
    moot("server_reset_query_always", "0", "a server that a client has changed is always cleaned"),
    missing("server_round_robin", "0", "the server used last is used next"),
    missing("server_tls13_ciphers", "", NO_CIPHERS),
    special("server_tls_ca_file", Some("")),
    special("server_tls_cert_file", Some("")),
    missing("server_tls_ciphers", "default", NO_CIPHERS),
    special("server_tls_key_file", Some("")),
    missing("server_tls_protocols", "secure", NO_CIPHERS),
    special("server_tls_sslmode", Some("prefer")),
    moot("service_name", "", "for Windows only"),
    key("so_reuseport", "0", "listen.reuse_port", Turn::Switch),
    moot("stats_period", "60", "averages are made over a minute"),
    key("stats_users", "", "auth.stats_users", Turn::Names),
    key("suspend_timeout", "10", "pool.suspend_timeout", Turn::Seconds),
    moot("syslog", "0", TO_STDERR),
    moot("syslog_facility", "daemon", TO_STDERR),
    moot("syslog_ident", "pgbouncer", TO_STDERR),
    moot("tcp_defer_accept", "1", "a connection that says nothing is closed after client_login_timeout"),
    key("tcp_keepalive", "1", "tcp.keepalive", Turn::Switch),
    key("tcp_keepcnt", "0", "tcp.keepcnt", Turn::Limit),
    key("tcp_keepidle", "0", "tcp.keepidle", Turn::SecondsOrDefault),
    key("tcp_keepintvl", "0", "tcp.keepintvl", Turn::SecondsOrDefault),
    moot("tcp_socket_buffer", "0", "the kernel sizes its buffers itself"),
    key("tcp_user_timeout", "0", "tcp.user_timeout", Turn::Milliseconds),
    moot("track_extra_parameters", "IntervalStyle", "every setting is tracked"),
    key("transaction_timeout", "0", "pool.transaction_timeout", Turn::Seconds),
    special("unix_socket_dir", Some("/tmp")),
    missing("unix_socket_group", "", "everybody on the machine can reach the socket, and has to log in"),
    special("unix_socket_mode", Some("0777")),
    moot("user", "", "start the program as the user it is to run as"),
    special("verbose", Some("0")),
];
