//! Connections that change their runtime.

use crate::SOON;
use crate::certificates::Authority;
use crate::raw::{ask, receive, send};
use crate::server::login;
use cloud_mirror::backend::tls::{ServerTls, TlsMode};
use cloud_mirror::backend::{Address, Endpoint, Link, connect};
use cloud_mirror::lab::Cluster;
use cloud_mirror::sys::Detached;

/// Runs `work` on a thread with a runtime of its own.
fn elsewhere<T: Send + 'static>(
    work: impl AsyncFnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
    })
}

async fn check(link: Link) {
    let Link { mut stream, mut leftover, pid, .. } = link;
    // Half read when it moves: the row has been sent, some of it lies in our buffers.
    send(&mut stream, b'Q', b"SELECT repeat('x', 100000)\0").await;
    let (tag, _) = receive(&mut stream, &mut leftover).await.unwrap();
    assert_eq!(tag, b'T');
    let detached: Detached = stream.detach().unwrap();
    let moved = elsewhere(async move || {
        let mut stream = detached.attach().unwrap();
        let (tag, row) = receive(&mut stream, &mut leftover).await.unwrap();
        assert_eq!((tag, row.len()), (b'D', 100_006));
        while receive(&mut stream, &mut leftover).await.unwrap().0 != b'Z' {}
        let answer = ask(&mut stream, &mut leftover, "SELECT pg_backend_pid()").await.unwrap();
        assert_eq!(answer, pid.to_string());
        (stream.detach().unwrap(), leftover)
    });
    let (detached, mut leftover) = tokio::task::spawn_blocking(|| moved.join().unwrap()).await.unwrap();
    let mut stream = detached.attach().unwrap();
    assert_eq!(ask(&mut stream, &mut leftover, "SELECT 'home'").await.unwrap(), "home");
}

#[tokio::test]
async fn a_link_goes_on_in_another_runtime_and_comes_home() {
    let authority = Authority::new();
    let identity = authority.sign("localhost");
    let cluster = Cluster::builder().tls(identity.certificate, identity.key).start().await.unwrap();
    let tcp = |host: &str| Address::Tcp { host: host.to_owned(), port: cluster.port() };
    let unix = Address::Unix { directory: cluster.socket_dir().to_owned(), port: cluster.port() };
    for (address, mode) in
        [(tcp("127.0.0.1"), TlsMode::Disable), (unix, TlsMode::Disable), (tcp("localhost"), TlsMode::Require)]
    {
        let endpoint = Endpoint { address, tls: ServerTls::new(mode, None).unwrap() };
        let parameters = [("database", "postgres")];
        let link = connect(&endpoint, &login("postgres", Some("lab")), &parameters, SOON).await.unwrap();
        assert_eq!(link.stream.is_encrypted(), mode == TlsMode::Require);
        check(link).await;
    }
}
