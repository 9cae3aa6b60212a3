//! Sequences follow by a poll.

use crate::pair::{EPOCH, Pair};
use cloud_mirror::base::Epoch;
use cloud_mirror::replicate::bootstrap::Error;
use cloud_mirror::replicate::sequences::{Memory, poll};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn sequences_follow_and_only_in_their_own_epoch() {
    let pair = Pair::start().await;
    pair.local
        .sql(
            "shop",
            "CREATE SEQUENCE a; CREATE SEQUENCE \"B c\" INCREMENT -2 MINVALUE -100 MAXVALUE 0 START 0; CREATE SEQUENCE unused START 7;
             SELECT nextval('a')",
        )
        .await
        .unwrap();
    pair.run().await.unwrap();
    let values = "SELECT 'a', last_value, is_called FROM public.a UNION ALL SELECT 'b', last_value, is_called FROM public.\"B c\"
                  UNION ALL SELECT 'u', last_value, is_called FROM public.unused";
    pair.assert_same(values).await;

    let within = Duration::from_secs(60);
    let source = pair.spec.source.control("cloud-mirror test", within).await.unwrap();
    let mut target = pair.spec.target.control("cloud-mirror test", within).await.unwrap();
    let mut memory = Memory::default();
    let name = &pair.spec.name;
    assert_eq!(poll(&source, &mut target, name, EPOCH, &mut memory).await.unwrap().set, 3);
    assert_eq!(poll(&source, &mut target, name, EPOCH, &mut memory).await.unwrap().set, 0);
    pair.local
        .sql(
            "shop",
            "SELECT nextval('a') FROM generate_series(1, 5000); SELECT nextval('\"B c\"'); SELECT setval('unused', 3, false);
             CREATE SEQUENCE newborn",
        )
        .await
        .unwrap();
    let polled = poll(&source, &mut target, name, EPOCH, &mut memory).await.unwrap();
    assert_eq!((polled.seen, polled.set), (4, 3));
    assert_eq!(polled.missing, ["\"public\".\"newborn\""]);
    pair.assert_same(values).await;
    let rate =
        "SELECT per_second > 100 FROM cloud_mirror.sequences WHERE sequence_name = 'a' AND last_value = 5001";
    assert_eq!(pair.cloud.value("shop", rate).await.unwrap(), "t");

    // A transaction that applies changes holds the row: the poll steps aside and comes again.
    let applier = pair.cloud.client("shop").await.unwrap();
    applier.batch_execute("BEGIN; UPDATE cloud_mirror.progress SET updated_at = now()").await.unwrap();
    pair.local.sql("shop", "SELECT nextval('a')").await.unwrap();
    assert_eq!(poll(&source, &mut target, name, EPOCH, &mut memory).await.unwrap().set, 0);
    applier.batch_execute("COMMIT").await.unwrap();
    assert_eq!(poll(&source, &mut target, name, EPOCH, &mut memory).await.unwrap().set, 1);
    pair.assert_same(values).await;

    // After a promotion nothing is set any more.
    pair.local.sql("shop", "SELECT nextval('a')").await.unwrap();
    pair.cloud.sql("shop", "UPDATE cloud_mirror.progress SET epoch = 2").await.unwrap();
    let stale = poll(&source, &mut target, name, EPOCH, &mut memory).await.unwrap_err();
    assert!(matches!(stale, Error::StaleEpoch), "{stale}");
    assert_eq!(pair.cloud.value("shop", "SELECT last_value FROM public.a").await.unwrap(), "5002");
    assert_eq!(poll(&source, &mut target, name, Epoch(2), &mut memory).await.unwrap().set, 1);
}
