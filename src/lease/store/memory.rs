//! The record in memory, with the faults of a real store, for tests and simulations.

use super::{Store, StoreError};
use crate::lease::Version;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the next request goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out, the answer is an error.
    LostReply,
    /// Nothing is carried out, the answer is an error.
    Unavailable,
    /// A write that finds another version than it expects, whatever is there; reads are served.
    Stale,
    /// It is carried out at once, the answer takes this long.
    Slow(Duration),
}

/// A store that all its clones share.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    version: u64,
    bytes: Option<Vec<u8>>,
    faults: VecDeque<Fault>,
    standing: Option<Fault>,
}

impl MemoryStore {
    /// The next request that has no fault before it in the queue goes wrong like this.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// From now on all requests go wrong like this, or none.
    pub fn fail_always(&self, fault: Option<Fault>) {
        self.lock().standing = fault;
    }

    /// What is stored now, seen from outside.
    pub fn peek(&self) -> Option<(Version, Vec<u8>)> {
        let content = self.lock();
        content.bytes.clone().map(|bytes| (Version(content.version.to_string()), bytes))
    }

    /// Puts bytes there, or nothing, as a person with access to the store would.
    pub fn put(&self, bytes: Option<Vec<u8>>) {
        let mut content = self.lock();
        content.version += 1;
        content.bytes = bytes;
    }

    /// A conditional write without faults.
    pub fn write_now(&self, base: Option<&Version>, bytes: Vec<u8>) -> Result<Version, StoreError> {
        let mut content = self.lock();
        let present = content.bytes.as_ref().map(|_| content.version.to_string());
        if present.as_deref() != base.map(|v| v.0.as_str()) {
            return Err(StoreError::Conflict);
        }
        content.version += 1;
        content.bytes = Some(bytes);
        Ok(Version(content.version.to_string()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.0.lock().expect("no holder of the memory store panics")
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut content = self.lock();
        content.faults.pop_front().or_else(|| content.standing.clone())
    }

    async fn write(&self, base: Option<Version>, bytes: Vec<u8>) -> Result<Version, StoreError> {
        let fault = self.next_fault();
        let unavailable = || StoreError::Unavailable("a fault of the test".into());
        match &fault {
            Some(Fault::Unavailable) => return Err(unavailable()),
            Some(Fault::Stale) => return Err(StoreError::Conflict),
            Some(Fault::LostReply | Fault::Slow(_)) | None => {}
        }
        let done = self.write_now(base.as_ref(), bytes);
        match fault {
            Some(Fault::LostReply) => return Err(unavailable()),
            Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
            Some(Fault::Unavailable | Fault::Stale) | None => {}
        }
        done
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory:".into()
    }

    async fn read(&self) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
        let found = self.peek();
        match self.next_fault() {
            Some(Fault::Unavailable | Fault::LostReply) => {
                return Err(StoreError::Unavailable("a fault of the test".into()));
            }
            Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
            Some(Fault::Stale) | None => {}
        }
        Ok(found)
    }

    async fn create(&self, bytes: Vec<u8>) -> Result<Version, StoreError> {
        self.write(None, bytes).await
    }

    async fn replace(&self, base: Version, bytes: Vec<u8>) -> Result<Version, StoreError> {
        self.write(Some(base), bytes).await
    }
}
