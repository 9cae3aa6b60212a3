//! A client by a real driver, which checks every answer.

use crate::PATIENCE;
use crate::cancel::{self, Then};
use crate::recorded::{Recorded, Tape};
use crate::stage::Stage;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, TryStreamExt, future, pin_mut};
use rand::RngExt;
use rand::rngs::SmallRng;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Config, Error, NoTls};

/// What a client may hear when its server or its statement was ended.
const ENDINGS: [&str; 9] = ["57P01", "57P02", "57P03", "57P05", "08006", "08007", "40001", "25P02", "55000"];

/// The choice of a client that has none.
const CONNECTING: u32 = 99;

pub struct Client {
    stage: Arc<Stage>,
    number: usize,
    random: SmallRng,
    choice: u32,
    link: Option<(tokio_postgres::Client, JoinHandle<()>)>,
    tape: Option<Tape>,
}

impl Client {
    pub fn new(stage: Arc<Stage>, number: usize, random: SmallRng) -> Client {
        Client { stage, number, random, choice: CONNECTING, link: None, tape: None }
    }

    pub fn is_connected(&self) -> bool {
        self.link.as_ref().is_some_and(|(client, _)| !client.is_closed())
    }

    pub async fn play_until(&mut self, end: Instant) {
        while Instant::now() < end {
            let Ok(step) = timeout(PATIENCE, self.step()).await else {
                let (number, choice) = (self.number, self.choice);
                panic!("client {number} hangs in choice {choice}\n{}", self.stage.story().await);
            };
            self.stage.steps.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = step {
                self.must_be_trouble(&error);
                self.stage.losses.fetch_add(1, Ordering::Relaxed);
                self.link = None;
            }
        }
        // Nothing open is left, and who was cut off knows it.
        let Some((client, _)) = &self.link else { return };
        let Ok(last) = timeout(PATIENCE, client.batch_execute("ROLLBACK")).await else {
            panic!("client {} hangs at the end\n{}", self.number, self.stage.story().await);
        };
        if let Err(error) = last {
            self.must_be_trouble(&error);
            self.link = None;
        }
    }

    pub async fn leave(mut self) {
        if let Some((client, connection)) = self.link.take() {
            drop(client);
            timeout(PATIENCE, connection).await.expect("the connection ends").unwrap();
        }
    }

    fn must_be_trouble(&self, error: &Error) {
        let is_known = !self.stage.is_calm()
            && match error.code() {
                Some(code) => ENDINGS.contains(&code.code()),
                None => true,
            };
        let (number, choice) = (self.number, self.choice);
        let heard = self.tape.as_ref().map(Tape::to_string).unwrap_or_default();
        let log = self.stage.proxy.log();
        assert!(is_known, "client {number} in choice {choice}: {error:?}\n{heard}\n{log}");
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let socket = Recorded::connect(self.stage.proxy.port()).await.expect("it listens");
        self.tape = Some(socket.tape());
        let config: Config = self.stage.url().parse().expect("a URL");
        let (client, connection) = config.connect_raw(socket, NoTls).await?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        // A new session has nothing of anybody else's.
        let ask = "SELECT coalesce(current_setting('soak.who', true), ''), current_setting('search_path'),
            (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)";
        let row = client.query_one(ask, &[]).await?;
        let seen: (String, String, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(seen, (String::new(), "\"$user\", public".to_owned(), 0), "client {}", self.number);
        client.batch_execute(&format!("SET soak.who = 'client {}'", self.number)).await?;
        self.link = Some((client, connection));
        Ok(())
    }

    async fn step(&mut self) -> Result<(), Error> {
        if !self.is_connected() {
            self.link = None;
            self.choice = CONNECTING;
            self.connect().await?;
        }
        let (client, _) = self.link.as_ref().expect("it was made");
        let random = &mut self.random;
        self.choice = random.random_range(0..18);
        let has_blocks = self.stage.mode.has_blocks();
        match self.choice {
            0..3 => insert(&self.stage, client, self.number).await,
            3 if has_blocks => insert_in_transaction(&self.stage, client, self.number).await,
            4..6 => echo(client, random.random()).await,
            6 => pipeline(client, random.random()).await,
            7 => mistake(client).await,
            8 if has_blocks => rolled_back(client).await,
            9 => copy_in(client, random.random_range(1..3000), random.random()).await,
            10 => copy_out(client, random.random_range(1..200)).await,
            11 => long_result(client, random.random_range(1..50)).await,
            12 => {
                self.stage.note("cancel");
                if cancel::long_statement(&self.stage, client, random).await? == Then::Leave {
                    self.link = None;
                }
                Ok(())
            }
            13 => own_settings(client, self.number).await,
            14 if self.stage.mode.keeps_state() => temporary(client).await,
            15 => {
                self.leave_somewhere().await;
                Ok(())
            }
            // Keeps a connection for a while, so that others wait.
            16 if has_blocks => busy(client, random.random_range(1..80)).await,
            17 if self.stage.mode.keeps_state() => locked(client, self.number as i64).await,
            _ if has_blocks => cursor(client).await,
            _ => insert(&self.stage, client, self.number).await,
        }
    }

    /// Leaves, perhaps in the middle of something.
    async fn leave_somewhere(&mut self) {
        let (client, connection) = self.link.take().expect("it was made");
        match self.random.random_range(0..3) {
            0 => drop(client),
            1 => {
                let sleep = client.batch_execute("SELECT pg_sleep(0.05)");
                let _ = timeout(Duration::from_millis(5), sleep).await;
                connection.abort();
            }
            _ => {
                let _ = client.batch_execute("BEGIN; INSERT INTO scratch VALUES (1)").await;
                connection.abort();
            }
        }
        let _ = connection.await;
    }
}

async fn insert(stage: &Stage, client: &tokio_postgres::Client, who: usize) -> Result<(), Error> {
    let id = stage.number();
    let insert = client.prepare("INSERT INTO ledger VALUES ($1, $2)").await?;
    client.execute(&insert, &[&id, &(who as i32)]).await?;
    stage.acknowledge(id);
    Ok(())
}

async fn insert_in_transaction(
    stage: &Stage,
    client: &tokio_postgres::Client,
    who: usize,
) -> Result<(), Error> {
    let id = stage.number();
    client.batch_execute("BEGIN").await?;
    client.execute("INSERT INTO ledger VALUES ($1, $2)", &[&id, &(who as i32)]).await?;
    client.batch_execute("COMMIT").await?;
    stage.acknowledge(id);
    Ok(())
}

async fn echo(client: &tokio_postgres::Client, value: i64) -> Result<(), Error> {
    let statement = client.prepare("SELECT $1::bigint").await?;
    for n in 0..4 {
        let sent = value.wrapping_add(n);
        assert_eq!(client.query_one(&statement, &[&sent]).await?.get::<_, i64>(0), sent);
    }
    Ok(())
}

async fn pipeline(client: &tokio_postgres::Client, value: i32) -> Result<(), Error> {
    let one = async |n: i32| -> Result<(), Error> {
        let sent = value.wrapping_add(n);
        assert_eq!(client.query_one("SELECT $1::int", &[&sent]).await?.get::<_, i32>(0), sent);
        Ok(())
    };
    future::try_join_all((0..8).map(one)).await.map(|_| ())
}

async fn mistake(client: &tokio_postgres::Client) -> Result<(), Error> {
    match client.query("SELECT 1 / $1::int", &[&0]).await {
        Err(error) if error.code().is_some_and(|code| code.code() == "22012") => Ok(()),
        Err(error) => Err(error),
        Ok(rows) => panic!("a division by zero gave {rows:?}"),
    }
}

async fn rolled_back(client: &tokio_postgres::Client) -> Result<(), Error> {
    client
        .batch_execute("BEGIN; SET application_name = 'rolled back'; INSERT INTO scratch VALUES (7)")
        .await?;
    client.batch_execute("ROLLBACK").await?;
    let name: String = client.query_one("SELECT current_setting('application_name')", &[]).await?.get(0);
    assert_eq!(name, "");
    Ok(())
}

async fn copy_in(client: &tokio_postgres::Client, rows: usize, is_finished: bool) -> Result<(), Error> {
    let sink = client.copy_in("COPY scratch FROM STDIN").await?;
    pin_mut!(sink);
    for _ in 0..rows.div_ceil(100) {
        sink.send(Bytes::from("5\n".repeat(100))).await?;
    }
    if is_finished {
        assert_eq!(sink.finish().await?, 100 * rows.div_ceil(100) as u64);
    }
    Ok(())
}

async fn copy_out(client: &tokio_postgres::Client, wanted: usize) -> Result<(), Error> {
    let stream =
        client.copy_out("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 500)) TO STDOUT").await?;
    // What is not taken is read by the driver.
    let some: Vec<Bytes> = stream.take(wanted).try_collect().await?;
    assert!(some.iter().all(|chunk| chunk.iter().all(|byte| matches!(byte, b'x' | b'\n'))));
    Ok(())
}

async fn long_result(client: &tokio_postgres::Client, wanted: usize) -> Result<(), Error> {
    let parameters: [i32; 1] = [2000];
    let rows =
        client.query_raw("SELECT n, repeat('y', 300) FROM generate_series(1, $1::int) n", parameters).await?;
    pin_mut!(rows);
    for n in 1..=wanted as i32 {
        let row = rows.try_next().await?.expect("there are more");
        assert_eq!(row.get::<_, i32>(0), n);
    }
    Ok(())
}

async fn own_settings(client: &tokio_postgres::Client, number: usize) -> Result<(), Error> {
    let who: String = client.query_one("SELECT current_setting('soak.who', true)", &[]).await?.get(0);
    assert_eq!(who, format!("client {number}"));
    Ok(())
}

async fn temporary(client: &tokio_postgres::Client) -> Result<(), Error> {
    client.batch_execute("CREATE TEMP TABLE mine AS SELECT 42 AS n").await?;
    let n: i32 = client.query_one("SELECT n FROM mine", &[]).await?.get(0);
    assert_eq!(n, 42);
    client.batch_execute("DROP TABLE mine").await
}

async fn cursor(client: &tokio_postgres::Client) -> Result<(), Error> {
    client.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 100)").await?;
    for n in [1, 2] {
        assert_eq!(client.query_one("FETCH c", &[]).await?.get::<_, i32>(0), n);
    }
    client.batch_execute("COMMIT").await
}

async fn busy(client: &tokio_postgres::Client, ms: u32) -> Result<(), Error> {
    client.batch_execute("BEGIN").await?;
    client.batch_execute(&format!("SELECT pg_sleep(0.0{ms:02})")).await?;
    client.batch_execute("COMMIT").await
}

/// A lock of the session, which nobody else can have inherited.
async fn locked(client: &tokio_postgres::Client, key: i64) -> Result<(), Error> {
    let taken: bool = client.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).await?.get(0);
    if !taken {
        // A back end that this client has left is still ending.
        return Ok(());
    }
    let mine = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    assert_eq!(client.query_one(mine, &[]).await?.get::<_, i64>(0), 1, "client {key}");
    let was_held: bool = client.query_one("SELECT pg_advisory_unlock($1)", &[&key]).await?.get(0);
    assert!(was_held, "client {key}");
    Ok(())
}
