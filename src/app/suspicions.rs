//! Sessions that wait to hear whether a server lives.

use crate::base::Site;
use crate::failover::controller::{Event, Evidence};
use crate::health;
use crate::session::{Sign, Suspicion, Verdict};
use tokio::sync::oneshot;

/// Suspicions that were not judged yet.
#[derive(Debug, Default)]
pub struct Suspicions {
    waiting: Vec<(Site, oneshot::Sender<Verdict>)>,
    /// At this number those that have left are forgotten. Not each time: thousands come at once.
    forget_at: usize,
}

/// Fewer are not worth a look.
const FEW: usize = 64;

impl Suspicions {
    /// Takes one in. Returns what the controller has to be told, unless the suspicion is about a
    /// server that is not the writer any more, which is judged at once.
    pub fn take(&mut self, suspicion: Suspicion, writer: Site) -> Option<Event> {
        let Suspicion { site, sign, verdict, .. } = suspicion;
        if site != writer {
            let _ = verdict.send(Verdict::Lost);
            return None;
        }
        // Sessions that have left wait for nothing.
        if self.waiting.len() >= self.forget_at.max(FEW) {
            self.waiting.retain(|(_, verdict)| !verdict.is_closed());
            self.forget_at = 2 * self.waiting.len();
        }
        self.waiting.push((site, verdict));
        Some(Event::LinkBroken { site, evidence: evidence(&sign) })
    }

    /// Judges all that wait about `site`.
    pub fn judge(&mut self, site: Site, verdict: Verdict) {
        for (suspected, waiting) in std::mem::take(&mut self.waiting) {
            if suspected == site {
                let _ = waiting.send(verdict);
            } else {
                self.waiting.push((suspected, waiting));
            }
        }
    }
}

fn evidence(sign: &Sign) -> Evidence {
    match sign {
        Sign::ConnectFailed => Evidence::ConnectFailed,
        Sign::Ended(None) => Evidence::Eof,
        Sign::Ended(Some(report)) => match health::evidence(report) {
            Some(health::Evidence::AdminStop) => Evidence::AdminStop,
            Some(health::Evidence::CrashRestart) => Evidence::CrashRestart,
            Some(health::Evidence::PostmasterDied) => Evidence::PostmasterDied,
            Some(health::Evidence::NotReady | health::Evidence::Refused) => Evidence::ConnectFailed,
            Some(health::Evidence::Eof) | None => Evidence::Eof,
        },
    }
}
