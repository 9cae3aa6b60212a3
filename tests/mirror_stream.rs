//! What a mirror carries, between real servers.

mod stream;

use stream::{Pair, following};

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_come_change_and_go_do_so_on_the_mirror() {
    let pair = Pair::start().await;
    pair.sql("CREATE TABLE item (id bigserial PRIMARY KEY, name text, price numeric(10,2)); INSERT INTO item (name) VALUES ('before')").await;
    let mirror = pair.mirror();
    following(&mirror).await;
    pair.sql("INSERT INTO item (name, price) SELECT 'item ' || n, n / 7.0 FROM generate_series(1, 5000) n")
        .await;
    pair.sql("UPDATE item SET price = price + 1 WHERE id % 3 = 0").await;
    pair.sql("UPDATE item SET id = id + 100000 WHERE id % 100 = 7").await;
    pair.sql("DELETE FROM item WHERE id % 5 = 0").await;
    pair.assert_equal().await;
    pair.assert_no_errors();
    let status = mirror.status().borrow().clone();
    assert!(status.rows_applied > 7000, "{status:?}");
    assert_eq!(status.lag_ms, Some(0));
}
