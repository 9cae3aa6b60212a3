//! The words that a parenthesis may follow without anything being left behind: keywords, and the
//! functions of PostgreSQL that change nothing in their session.

use super::footprint::Footprint;

/// Longer names are none of these.
const LONGEST: usize = 40;

/// Keywords, and types with a length, that are no function's name, unless users have given it to one.
#[rustfmt::skip]
pub const KEYWORDS: &[&str] = &[
    "all", "always", "analyze", "and", "any", "array", "as", "asymmetric", "between", "bit", "both",
    "bpchar", "by", "case", "cast", "char", "character", "check", "coalesce", "collate", "conflict",
    "cross", "cube", "dec", "decimal", "default", "distinct", "do", "else", "except", "exclude",
    "exists", "explain", "extract", "filter", "float", "following", "foreign", "from", "full",
    "greatest", "group", "grouping", "having", "identity", "ilike", "in", "include", "inner",
    "intersect", "interval", "into", "is", "isnull", "join", "key", "lateral", "leading", "least",
    "left", "like", "limit", "materialized", "national", "natural", "nchar", "normalize", "not",
    "notnull", "null", "nullif", "numeric", "offset", "on", "only", "or", "order", "outer", "over",
    "overlaps", "overlay", "partition", "position", "preceding", "precision", "primary", "range",
    "references", "returning", "right", "rollup", "row", "rows", "select", "set", "sets", "similar",
    "some", "substring", "symmetric", "table", "then", "time", "timestamp", "timestamptz", "timetz",
    "treat", "trim", "union", "unique", "using", "vacuum", "values", "varbit", "varchar", "varying",
    "when", "where", "window", "with", "within", "xmlattributes", "xmlconcat", "xmlelement",
    "xmlexists", "xmlforest", "xmlparse", "xmlpi", "xmlroot", "xmlserialize",
];

/// What follows these with a parenthesis is a name with its columns.
#[rustfmt::skip]
const BEFORE_NAMES: &[&str] = &[
    "aggregate", "as", "copy", "exists", "function", "index", "into", "procedure", "recursive",
    "references", "table", "type", "view",
];

/// Statements that begin with these reach no table, or only by what stands in them (SELECT with FROM).
#[rustfmt::skip]
const OF_SESSIONS: &[&str] = &[
    "abort", "begin", "checkpoint", "close", "commit", "deallocate", "discard", "end", "listen", "load",
    "notify", "prepare", "release", "reset", "rollback", "savepoint", "select", "set", "show", "start",
    "unlisten", "values",
];

/// Functions that leave nothing behind but what their transaction commits.
#[rustfmt::skip]
const FUNCTIONS: &[&str] = &[
    "abs", "acos", "acosd", "acosh", "age", "array_agg", "array_append", "array_cat", "array_dims",
    "array_fill", "array_length", "array_lower", "array_ndims", "array_position", "array_positions",
    "array_prepend", "array_remove", "array_replace", "array_sample", "array_shuffle", "array_to_json",
    "array_to_string", "array_upper", "ascii", "asin", "asind", "asinh", "atan", "atan2", "atan2d",
    "atand", "atanh", "avg", "bit_and", "bit_count", "bit_length", "bit_or", "bit_xor", "bool",
    "bool_and", "bool_or", "btrim", "cardinality", "cbrt", "ceil", "ceiling", "char_length",
    "character_length", "chr", "clock_timestamp", "col_description", "concat", "concat_ws", "convert",
    "convert_from", "convert_to", "corr", "cos", "cosd", "cosh", "cot", "cotd", "count", "covar_pop",
    "covar_samp", "cume_dist", "current_database", "current_query", "current_schema", "current_schemas",
    "current_setting", "date", "date_bin", "date_part", "date_trunc", "daterange", "decode", "degrees",
    "dense_rank", "div", "encode", "enum_first", "enum_last", "enum_range", "erf", "erfc", "every",
    "exp", "factorial", "first_value", "float4", "float8", "floor", "format", "format_type", "gcd",
    "gen_random_uuid", "generate_series", "generate_subscripts", "get_bit", "get_byte", "grouping",
    "has_any_column_privilege", "has_column_privilege", "has_database_privilege",
    "has_function_privilege", "has_schema_privilege", "has_sequence_privilege", "has_table_privilege",
    "host", "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port", "initcap",
    "int2", "int4", "int4range", "int8", "int8range", "isempty", "isfinite", "json_agg",
    "json_array_elements", "json_array_elements_text", "json_array_length", "json_build_array",
    "json_build_object", "json_each", "json_each_text", "json_extract_path", "json_extract_path_text",
    "json_object", "json_object_agg", "json_object_keys", "json_populate_record",
    "json_populate_recordset", "json_strip_nulls", "json_to_record", "json_to_recordset", "json_typeof",
    "jsonb_agg", "jsonb_array_elements", "jsonb_array_elements_text", "jsonb_array_length",
    "jsonb_build_array", "jsonb_build_object", "jsonb_each", "jsonb_each_text", "jsonb_extract_path",
    "jsonb_extract_path_text", "jsonb_insert", "jsonb_object", "jsonb_object_agg", "jsonb_object_keys",
    "jsonb_path_exists", "jsonb_path_match", "jsonb_path_query", "jsonb_path_query_array",
    "jsonb_path_query_first", "jsonb_populate_record", "jsonb_populate_recordset", "jsonb_pretty",
    "jsonb_set", "jsonb_set_lax", "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset",
    "jsonb_typeof", "justify_days", "justify_hours", "justify_interval", "lag", "last_value", "lcm",
    "lead", "left", "length", "ln", "localtime", "localtimestamp", "log", "log10", "lower", "lower_inc",
    "lower_inf", "lpad", "ltrim", "make_date", "make_interval", "make_time", "make_timestamp",
    "make_timestamptz", "masklen", "max", "md5", "min", "min_scale", "mod", "mode", "multirange",
    "mxid_age", "netmask", "network", "now", "nth_value", "ntile", "num_nonnulls",
    "num_nulls", "numnode", "numrange", "obj_description", "octet_length", "parse_ident",
    "percent_rank", "percentile", "percentile_cont", "percentile_disc", "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared", "pg_backend_pid", "pg_blocking_pids", "pg_cancel_backend",
    "pg_client_encoding", "pg_column_size", "pg_conf_load_time", "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn", "pg_current_wal_lsn", "pg_current_xact_id", "pg_database_size",
    "pg_encoding_to_char", "pg_function_is_visible", "pg_get_constraintdef", "pg_get_expr",
    "pg_get_functiondef", "pg_get_indexdef", "pg_get_keywords", "pg_get_partkeydef", "pg_get_ruledef",
    "pg_get_serial_sequence", "pg_get_statisticsobjdef", "pg_get_triggerdef", "pg_get_userbyid",
    "pg_get_viewdef", "pg_has_role", "pg_indexes_size", "pg_is_in_recovery", "pg_is_other_temp_schema",
    "pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_notify", "pg_opclass_is_visible",
    "pg_partition_ancestors", "pg_partition_root", "pg_partition_tree", "pg_postmaster_start_time",
    "pg_relation_filenode", "pg_relation_size", "pg_size_bytes", "pg_size_pretty", "pg_sleep",
    "pg_table_is_visible", "pg_table_size", "pg_tablespace_location", "pg_total_relation_size",
    "pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared", "pg_type_is_visible", "pg_typeof",
    "pg_wal_lsn_diff", "phraseto_tsquery", "pi", "plainto_tsquery", "position", "pow", "power",
    "quote_ident", "quote_literal", "quote_nullable", "radians", "random", "range_agg", "range_merge",
    "rank", "regexp_count", "regexp_instr", "regexp_like", "regexp_match", "regexp_matches",
    "regexp_replace", "regexp_split_to_array", "regexp_split_to_table", "regexp_substr", "regr_avgx",
    "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy",
    "regr_syy", "repeat", "replace", "reverse", "right", "round", "row_number", "row_to_json", "rpad",
    "rtrim", "scale", "session_user", "set_bit", "set_byte", "set_masklen", "setweight",
    "sha224", "sha256", "sha384", "sha512", "shobj_description", "sign", "sin", "sind", "sinh",
    "split_part", "sqrt", "starts_with", "statement_timestamp", "stddev", "stddev_pop", "stddev_samp",
    "string_agg", "string_to_array", "string_to_table", "strip", "strpos", "substr", "substring", "sum",
    "tan", "tand", "tanh", "text", "timeofday", "to_ascii", "to_char", "to_date", "to_hex", "to_json",
    "to_jsonb", "to_number", "to_regclass", "to_regnamespace", "to_regproc", "to_regrole", "to_regtype",
    "to_timestamp", "to_tsquery", "to_tsvector", "transaction_timestamp", "translate", "trim_array",
    "trim_scale", "trunc", "ts_headline", "ts_rank", "ts_rank_cd", "tsrange", "tstzrange",
    "txid_current", "txid_current_if_assigned", "txid_status", "unistr", "unnest", "upper", "upper_inc",
    "upper_inf", "var_pop", "var_samp", "variance", "version", "websearch_to_tsquery", "width_bucket",
    "xmlagg",
];

/// Whether a keyword may stand before a parenthesis.
pub fn is_keyword(word: &[u8]) -> bool {
    is_in(KEYWORDS, word)
}

/// Whether a statement that begins with `word` reaches no table by itself.
pub fn is_of_session(word: &[u8]) -> bool {
    is_in(OF_SESSIONS, word)
}

/// Whether what follows `word` is a name and no call.
pub fn is_before_name(word: &[u8]) -> bool {
    is_in(BEFORE_NAMES, word)
}

/// What calling PostgreSQL's function of that name may leave behind.
pub fn of_function(name: &[u8]) -> Footprint {
    if is_in(FUNCTIONS, name) {
        return Footprint::CLEAN;
    }
    let mut room = [0; LONGEST];
    match lower(name, &mut room) {
        Some(
            "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared",
        ) => Footprint::ADVISORY_LOCK,
        Some("set_config") => Footprint::SETTING,
        Some(
            "pg_replication_origin_session_setup"
            | "pg_create_physical_replication_slot"
            | "pg_create_logical_replication_slot"
            | "pg_copy_physical_replication_slot"
            | "pg_copy_logical_replication_slot"
            | "pg_backup_start"
            | "pg_start_backup",
        ) => Footprint::KEEPS,
        Some("setseed") => Footprint::SEED,
        Some("currval" | "lastval") => Footprint::LAST_VALUE,
        Some("nextval" | "setval") => Footprint::ADVANCES,
        _ => Footprint::SUSPECT,
    }
}

fn is_in(sorted: &[&str], word: &[u8]) -> bool {
    let mut room = [0; LONGEST];
    lower(word, &mut room).is_some_and(|word| sorted.binary_search(&word).is_ok())
}

fn lower<'a>(word: &[u8], room: &'a mut [u8; LONGEST]) -> Option<&'a str> {
    let room = room.get_mut(..word.len())?;
    room.copy_from_slice(word);
    room.make_ascii_lowercase();
    std::str::from_utf8(room).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_short_enough() {
        for list in [KEYWORDS, BEFORE_NAMES, OF_SESSIONS, FUNCTIONS] {
            assert!(list.is_sorted());
            assert!(list.iter().all(|word| word.len() <= LONGEST));
        }
        assert!(is_keyword(b"VALUES"));
        assert!(!is_keyword(&[b'a'; 100]));
        assert_eq!(of_function(b"Lower"), Footprint::CLEAN);
    }
}
