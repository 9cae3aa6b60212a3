//! Cancels, and what they may meet.
//!
//! A server may signal twice for one request (PostgreSQL up to version 17 does, to the process and to its
//! group), and says by closing the connection that it will not signal any more. A client that goes on
//! before that can lose its next statement, without us as well; nobody else ever can.

use crate::PATIENCE;
use crate::stage::Stage;
use futures_util::pin_mut;
use rand::RngExt;
use rand::rngs::SmallRng;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::{CancelToken, Client, Error, NoTls};

/// Whether the client may go on with its session.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// No cancel is on its way any more.
    GoOn,
    /// One may be: it leaves.
    Leave,
}

/// A statement that lasts until it is cancelled.
pub async fn long_statement(stage: &Stage, client: &Client, random: &mut SmallRng) -> Result<Then, Error> {
    let waits = random.random_range(0..4) != 0;
    let token = client.cancel_token();
    let statement = client.batch_execute("SELECT pg_sleep(60)");
    pin_mut!(statement);
    let mut patience = Duration::from_millis(random.random_range(0..60));
    loop {
        match timeout(patience, &mut statement).await {
            Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "57014") => break,
            Ok(other) => return other.map(|()| Then::GoOn),
            // One that comes before its statement meets nothing, as without us.
            Err(_) => cancel(stage, &token, waits).await,
        }
        patience = Duration::from_millis(500);
    }
    if !waits {
        return Ok(Then::Leave);
    }
    client.batch_execute("SELECT 'not cancelled'").await?;
    Ok(Then::GoOn)
}

/// Cancels; as libpq does where it `waits` until the connection is closed.
async fn cancel(stage: &Stage, token: &CancelToken, waits: bool) {
    let done = async {
        let mut socket = TcpStream::connect(("127.0.0.1", stage.proxy.port())).await.unwrap();
        // The end may come as a reset.
        let _ = token.cancel_query_raw(&mut socket, NoTls).await;
        while waits && matches!(socket.read(&mut [0; 16]).await, Ok(1..)) {}
    };
    if timeout(PATIENCE, done).await.is_err() {
        panic!("a cancel does not end\n{}", stage.story().await);
    }
}
