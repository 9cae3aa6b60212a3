//! A console with a status of its own behind a socket that lets everyone in.

// Each test that uses this stage uses a part of it.
#![allow(dead_code)]

use async_trait::async_trait;
use cloud_mirror::admin::{Console, Greeting, Guest, Operator, serve};
use cloud_mirror::base::{DatabaseName, Epoch, Lsn, MirrorName, Moment, Privilege, RoleName, Site};
use cloud_mirror::config;
use cloud_mirror::observe::events::Event;
use cloud_mirror::observe::pooler::{Counts, DatabaseCounts, Halted, Pooler, PreparedStatement};
use cloud_mirror::observe::status::{LeaseStatus, MirrorState, MirrorStatus, Status};
use cloud_mirror::observe::{Counters, Facts};
use cloud_mirror::sql::console::{Caller, ConsoleCall, ConsoleError, Interrupt};
use cloud_mirror::sql::pooler::Pooler as PoolerCommand;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the operator was told to do.
#[derive(Default)]
struct Said(Mutex<Vec<String>>);

struct Known;

impl Facts for Known {
    fn status(&self) -> Status {
        Status {
            version: "9.9.9",
            summary: "all is well".to_owned(),
            state: "steady".to_owned(),
            writer: Some(Site::Local),
            is_holding: false,
            clients: 1,
            servers: 1,
            lease: Some(LeaseStatus {
                store: "file:/x".to_owned(),
                epoch: Epoch(7),
                owner: Some(Site::Local),
                phase: "normal",
                is_held: true,
                deadline_ms: Some(1),
                authority: "internet",
                ttl_ms: 2,
                renewed_at: None,
                problem: None,
            }),
            upstreams: Vec::new(),
            mirrors: vec![MirrorStatus {
                mirror: MirrorName::new("cloud").unwrap(),
                mode: "async",
                state: MirrorState::Following,
                is_promotable: true,
                source_cluster: Site::Local,
                source_database: DatabaseName::new("shop").unwrap(),
                target_database: DatabaseName::new("copy").unwrap(),
                last_applied: Some(Lsn(0xa8)),
                flushed: None,
                received: None,
                lag_ms: Some(250),
                lag_bytes: Some(88),
                bytes_done: 1,
                bytes_total: 2,
                rows_applied: 3,
                transactions_applied: 4,
                rows_not_followed: 5,
                warnings: vec!["a".to_owned(), "b".to_owned()],
            }],
        }
    }

    fn events(&self) -> Vec<Event> {
        Vec::new()
    }

    fn counters(&self) -> Arc<Counters> {
        Arc::default()
    }

    fn pooler(&self) -> Pooler {
        let (variables, read_file) = (BTreeMap::new(), |_: &Path| Ok(String::new()));
        let text = "[upstream.local]\nurl = \"postgres://postgres@db/shop\"\n".to_owned();
        let file = Some(config::File { name: "stage.toml".to_owned(), text });
        let machine = config::Machine::Root;
        let sources =
            config::Sources { file, variables: &variables, flags: &[], machine, read_file: &read_file };
        Pooler {
            config: Arc::new(config::load(&sources).unwrap_or_else(|errors| panic!("{errors}"))),
            clients: Vec::new(),
            logging_in: 0,
            links: Vec::new(),
            counts: vec![DatabaseCounts {
                database: b"shop".to_vec(),
                total: Counts { queries: 12_345_678, ..Counts::default() },
                before: Counts::default(),
                period: Duration::ZERO,
            }],
            halted: Halted::No,
            paused: Default::default(),
            disabled: Default::default(),
            now: Moment(1),
            at: SystemTime::UNIX_EPOCH,
        }
    }

    fn pools(&self) -> cloud_mirror::observe::metrics::Pools {
        Default::default()
    }

    fn may_write_now(&self) -> bool {
        true
    }

    fn accepts_clients(&self) -> bool {
        true
    }
}

impl Said {
    fn say(&self, text: String) -> Result<Vec<String>, ConsoleError> {
        self.0.lock().unwrap().push(text);
        Ok(Vec::new())
    }
}

#[async_trait]
impl Operator for Said {
    async fn create_mirror(
        &self,
        mirror: MirrorName,
        source: DatabaseName,
    ) -> Result<Vec<String>, ConsoleError> {
        self.say(format!("create {mirror} from {source}"))?;
        Ok(vec![format!("copying {source} to {mirror}")])
    }

    async fn drop_mirror(&self, mirror: MirrorName) -> Result<Vec<String>, ConsoleError> {
        match mirror.as_str() {
            "bomb" => panic!("as it was told"),
            "nobody" => {
                self.say(format!("drop {mirror}"))?;
                Err(ConsoleError::new("42704", "mirror \"nobody\" does not exist"))
            }
            _ => self.say(format!("drop {mirror}")),
        }
    }

    async fn promote(&self, mirror: MirrorName) -> Result<Vec<String>, ConsoleError> {
        self.say(format!("promote {mirror}"))
    }

    async fn reload(&self) -> Result<Vec<String>, ConsoleError> {
        self.say("reload".to_owned())
    }

    async fn prepared(&self) -> Vec<PreparedStatement> {
        Vec::new()
    }

    /// What waits does so until it is interrupted.
    async fn pooler(
        &self,
        command: PoolerCommand,
        interrupt: Interrupt,
    ) -> Result<Vec<String>, ConsoleError> {
        self.say(format!("{command:?}"))?;
        if command.waits() {
            tokio::select! {
                () = interrupt.cancelled.cancelled() => self.say("cancelled".to_owned())?,
                () = interrupt.gone.cancelled() => self.say("gone".to_owned())?,
            };
        }
        Ok(Vec::new())
    }
}

/// What the proxy of this stage knows.
pub fn facts() -> Arc<dyn Facts> {
    Arc::new(Known)
}

/// A listening console.
pub struct Stage {
    /// Where it listens.
    pub port: u16,
    said: Arc<Said>,
    stop: watch::Sender<bool>,
}

impl Stage {
    pub async fn set() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::new(Said::default());
        let (calls, received) = mpsc::channel(4);
        tokio::spawn(Console::new(facts(), said.clone()).run(received));
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(welcome(socket, calls.clone(), stopping.clone()));
            }
        });
        Self { port, said, stop }
    }

    /// What the operator was told to do, in its order.
    pub fn said(&self) -> Vec<String> {
        self.said.0.lock().unwrap().clone()
    }

    pub fn stop(&self) {
        self.stop.send(true).unwrap();
    }

    /// A bare socket that has read its greeting.
    pub async fn connect(&self, user: &str) -> TcpStream {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let body = [b"\0\x03\0\0user\0", user.as_bytes(), b"\0\0"].concat();
        socket.write_all(&(body.len() as u32 + 4).to_be_bytes()).await.unwrap();
        socket.write_all(&body).await.unwrap();
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"Z\0\0\0\x05I") {
            assert_ne!(socket.read_buf(&mut greeting).await.unwrap(), 0);
        }
        socket
    }
}

/// A client of a driver.
pub async fn client(stage: &Stage, user: &str) -> tokio_postgres::Client {
    let url = format!("host=127.0.0.1 port={} user={user} dbname=mirror sslmode=disable", stage.port);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Start-up as far as these clients need it: no TLS, no password, the user's name.
async fn welcome(mut socket: TcpStream, console: mpsc::Sender<ConsoleCall>, stopping: watch::Receiver<bool>) {
    let user = loop {
        let length = socket.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        socket.read_exact(&mut body).await.unwrap();
        if body.len() == 4 {
            socket.write_all(b"N").await.unwrap();
            continue;
        }
        let mut fields = body[4..].split(|byte| *byte == 0);
        fields.find(|field| *field == b"user").unwrap();
        break String::from_utf8(fields.next().unwrap().to_vec()).unwrap();
    };
    let privilege = match user.as_str() {
        "admin" => Privilege::Admin,
        "stats" => Privilege::Stats,
        _ => Privilege::Ordinary,
    };
    let caller = Caller { privilege, user: RoleName::new(user).unwrap() };
    let guest = Guest { caller, greeting: Greeting::Whole, sent: Vec::new(), cancel_key: None };
    // A client may leave as it likes.
    let _ = serve(socket, guest, console, stopping).await;
}
