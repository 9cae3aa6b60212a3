//! Asking a server to cancel what one of its back ends does.

use super::dial::dial;
use super::endpoint::Endpoint;
use super::error::Error;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Sends a CancelRequest for the back end `pid` with its `secret` and waits until the server has
/// closed the connection: only then has the signal been sent, and only then may the back end be
/// given to someone else. Encrypted exactly when links to the endpoint are.
///
/// `Ok` does not mean that anything was cancelled; the server never says. Run it in a task of its
/// own: the client that asked is allowed to hang up at once ("Canceling Requests in Progress").
pub async fn cancel(endpoint: &Endpoint, pid: i32, secret: &[u8], timeout: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + timeout;
    let at = || endpoint.address.to_string();
    let lost = |source| Error::Lost { at: at(), source };
    let work = async {
        let mut socket = dial(endpoint, deadline).await?;
        let length = i32::try_from(12 + secret.len()).map_err(|_| Error::BadParameter)?;
        let mut request = Vec::with_capacity(12 + secret.len());
        request.extend(length.to_be_bytes());
        request.extend(CANCEL_REQUEST.to_be_bytes());
        request.extend(pid.to_be_bytes());
        request.extend(secret);
        socket.write_all(&request).await.map_err(lost)?;
        socket.flush().await.map_err(lost)?;
        // PostgreSQL closes without a word; a reset or a missing close_notify is an end as well.
        let mut byte = [0];
        while let Ok(1..) = socket.read(&mut byte).await {}
        Ok(())
    };
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(Error::Timeout { at: at(), timeout }))
}

/// CancelRequest's code ("Message Formats").
const CANCEL_REQUEST: i32 = 80_877_102;
