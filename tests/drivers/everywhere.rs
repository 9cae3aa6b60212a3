//! Every driver in every mode. psycopg always; the others in `make campaign`.

use crate::modes::{sees_the_same_in, sees_the_same_in_every_mode as same};
use crate::others::{JDBC, installed};
use crate::program::Program;

fn orm(file: &str) -> Program {
    Program::new("orm", &[&installed("orm/bin/python"), file])
}

fn node(file: &str) -> Program {
    Program::new("node", &["node", file]).with("DRIVERS_NODE_MODULES", &installed("node"))
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_sees_the_same_in_every_mode() {
    same("psycopg", "psycopg", crate::psycopg::program()).await;
}

/// In statement mode a transaction block ends its client: a program of its own does without.
async fn without_transactions(name: &str, folder: &str, program: Program) {
    sees_the_same_in(&["session", "auto", "transaction", "statement"], name, folder, program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_sees_the_same_where_every_statement_is_a_transaction() {
    let program = Program::new("psycopg", &[&crate::psycopg::python(), "statements.py"]);
    without_transactions("psycopg_statements", "psycopg", program).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs asyncpg"]
async fn asyncpg_sees_the_same_where_every_statement_is_a_transaction() {
    let program = Program::new("asyncpg", &[&installed("asyncpg/bin/python"), "statements.py"]);
    without_transactions("asyncpg_statements", "asyncpg", program).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs node-postgres"]
async fn node_postgres_sees_the_same_where_every_statement_is_a_transaction() {
    without_transactions("node_postgres_statements", "node", node("statements.js")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs postgres.js"]
async fn postgres_js_sees_the_same_where_every_statement_is_a_transaction() {
    without_transactions("postgres_js_statements", "node", node("postgres_statements.js")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs asyncpg"]
async fn asyncpg_sees_the_same_in_every_mode() {
    same("asyncpg", "asyncpg", Program::new("asyncpg", &[&installed("asyncpg/bin/python"), "program.py"]))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs SQLAlchemy"]
async fn sqlalchemy_over_psycopg_sees_the_same_in_every_mode() {
    same("sqlalchemy_psycopg", "orm", orm("sqlalchemy_psycopg.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs SQLAlchemy"]
async fn sqlalchemy_over_asyncpg_sees_the_same_in_every_mode() {
    same("sqlalchemy_asyncpg", "orm", orm("sqlalchemy_asyncpg.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs Django"]
async fn django_sees_the_same_in_every_mode() {
    same("django", "orm", orm("django_orm.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs node-postgres"]
async fn node_postgres_sees_the_same_in_every_mode() {
    same("node_postgres", "node", node("program.js")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs postgres.js"]
async fn postgres_js_sees_the_same_in_every_mode() {
    same("postgres_js", "node", node("postgres.js")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs JDBC"]
async fn jdbc_sees_the_same_in_every_mode() {
    same("jdbc", "jdbc", Program::new("jdbc", &["java", "-cp", JDBC, "Program.java"])).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs JDBC"]
async fn jdbc_sees_the_same_where_every_statement_is_a_transaction() {
    let program = Program::new("jdbc", &["java", "-cp", JDBC, "Statements.java"]);
    without_transactions("jdbc_statements", "jdbc", program).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs pgx"]
async fn pgx_sees_the_same_in_every_mode() {
    same("pgx", "go", Program::new("go", &[&installed("go/pgx")])).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs lib/pq"]
async fn lib_pq_sees_the_same_in_every_mode() {
    same("lib_pq", "go", Program::new("go", &[&installed("go/pq")])).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs pgx"]
async fn pgx_sees_the_same_where_every_statement_is_a_transaction() {
    let program = Program::new("go", &[&installed("go/pgx"), "statements"]);
    without_transactions("pgx_statements", "go", program).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "campaign: needs lib/pq"]
async fn lib_pq_sees_the_same_where_every_statement_is_a_transaction() {
    let program = Program::new("go", &[&installed("go/pq"), "statements"]);
    without_transactions("lib_pq_statements", "go", program).await;
}
