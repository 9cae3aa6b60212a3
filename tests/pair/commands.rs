//! Mirrors made and dropped by command, through the proxy.

use crate::fixture::Pair;
use cloud_mirror::lab::{PASSWORD, SUPERUSER};

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_dropped_and_made_again_where_it_was() {
    let pair = Pair::start().await;
    pair.mirror_is("following").await;
    let url = pair.proxy.url(SUPERUSER, PASSWORD, "shop");
    let (console, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    console.batch_execute("DROP MIRROR cloud").await.unwrap();
    let left = "select count(*) from pg_replication_slots";
    assert_eq!(pair.local.value("shop", left).await.unwrap(), "0");
    let refused = console.batch_execute("MIRROR DATABASE cloud FROM shop").await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "55000", "{refused:?}");
    assert!(refused.detail().unwrap().contains("the target database is not empty"), "{refused:?}");
    let refused = console.batch_execute("MIRROR DATABASE spare FROM nowhere").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55000", "{refused:?}");
    // It is made again by the command.
    pair.cloud.sql("postgres", "drop database shop").await.unwrap();
    console.batch_execute("MIRROR DATABASE cloud FROM shop MODE = async").await.unwrap();
    pair.mirror_is("following").await;
    let databases =
        "select string_agg(datname, ' ' order by datname) from pg_database where datname !~ '^template'";
    // And nothing is left of the one that could not be made.
    assert_eq!(pair.cloud.value("postgres", databases).await.unwrap(), "postgres shop");
}
