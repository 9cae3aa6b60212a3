use super::*;
use crate::observe::Counters;
use crate::observe::events::Event;
use crate::observe::status::{Status, sample};
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// Facts that a test changes.
struct Told(Mutex<(Status, bool, bool)>);

impl Told {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((sample(), true, true))))
    }

    fn now(&self, change: impl FnOnce(&mut Status, &mut bool, &mut bool)) {
        let (status, may_write, accepts) = &mut *self.0.lock().unwrap();
        change(status, may_write, accepts);
    }
}

impl Facts for Told {
    fn status(&self) -> Status {
        self.0.lock().unwrap().0.clone()
    }

    fn events(&self) -> Vec<Event> {
        Vec::new()
    }

    fn counters(&self) -> Arc<Counters> {
        Arc::default()
    }

    fn pooler(&self) -> crate::observe::pooler::Pooler {
        unreachable!("HTTP shows none of the console's tables")
    }

    fn pools(&self) -> crate::observe::metrics::Pools {
        Default::default()
    }

    fn may_write_now(&self) -> bool {
        self.0.lock().unwrap().1
    }

    fn accepts_clients(&self) -> bool {
        self.0.lock().unwrap().2
    }
}

struct Served {
    address: std::net::SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn served(facts: Arc<Told>) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(serve(listener, facts, async { drop(stopped.await) }));
    Served { address, _stop: stop }
}

/// Status line and body, without the headers but the content type.
async fn ask(served: &Served, method: &str, path: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(served.address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (code, kind.to_owned(), body.to_owned())
}

#[tokio::test]
async fn each_path_answers_what_it_promises() {
    let facts = Told::new();
    let served = served(facts.clone()).await;
    let check = async |path: &str, code: u16, part: &str| {
        let (found, kind, body) = ask(&served, "GET", path).await;
        assert_eq!(found, code, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
        assert!(path == "/metrics" || kind == "application/json", "{path}: {kind}");
        let (found, _, body) = ask(&served, "HEAD", path).await;
        assert_eq!((found, body.as_str()), (code, ""), "HEAD {path}");
    };
    check("/livez", 200, "{\"check\":\"livez\",\"ok\":true}").await;
    check("/readyz", 200, "\"ok\":true").await;
    check("/healthz", 200, "\"writer\":\"local\",\"epoch\":7").await;
    check("/primary", 200, "{\"check\":\"primary\",\"ok\":true").await;
    check("/status", 200, "\"renewed_at\":\"2025-12-31T23:59:59.007Z\"").await;
    check("/metrics", 200, "cloud_mirror_lease_epoch 7.0").await;
    check("/nothing", 404, "\"no such path\"").await;
    assert_eq!(ask(&served, "POST", "/status").await.0, 405);

    facts.now(|_, may_write, _| *may_write = false);
    check("/primary", 503, "the right to write has ended or is not held").await;
    check("/healthz", 503, "the right to write").await;
    check("/readyz", 200, "true").await;

    facts.now(|status, may_write, _| {
        *may_write = true;
        status.upstreams[0].is_up = false;
    });
    check("/primary", 200, "true").await;
    check("/healthz", 503, "the server at localhost:5432 does not answer").await;
    check("/readyz", 503, "no server is up").await;

    facts.now(|status, _, _| status.writer = None);
    check("/primary", 503, "no server is the writer (steady)").await;

    facts.now(|status, _, accepts| {
        *status = sample();
        *accepts = false;
    });
    check("/readyz", 503, "starting or stopping").await;
    check("/healthz", 503, "starting or stopping").await;
    check("/livez", 200, "true").await;
}

#[tokio::test]
async fn requests_that_are_none_do_no_harm() {
    let served = served(Told::new()).await;
    for bytes in [b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice(), b"GET", b"GET / HTTP/9.9\r\n\r\n"] {
        let mut socket = TcpStream::connect(served.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        drop(socket);
    }
    assert_eq!(ask(&served, "GET", "/livez").await.0, 200);
}
