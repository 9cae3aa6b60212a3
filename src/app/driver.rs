//! Feeds the controller and hands on its wishes.

use super::carry::Carrier;
use super::world::World;
use crate::failover::controller::{Controller, Event, ProbeOutcome};
use crate::lease::protocol::Report;
use crate::session::{Suspicion, Verdict};
use crate::sys;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The longest sleep: timers stand still while the machine sleeps, our clock does not.
const NAP_MAX: Duration = Duration::from_millis(500);

/// What the driver listens to.
pub struct Ears {
    /// From the carried wishes, the mirrors and the operator.
    pub events: mpsc::Receiver<Event>,
    /// From the sessions.
    pub suspicions: mpsc::Receiver<Suspicion>,
    /// From the keeper of the lease; `None` without one.
    pub lease: Option<mpsc::Receiver<Report>>,
}

/// Runs until the process ends: `events` never closes, since the world holds its sender.
pub async fn drive(world: Arc<World>, mut controller: Controller, mut ears: Ears) {
    let mut carrier = Carrier::new(world.clone());
    let mut event = Event::Started;
    loop {
        if let Event::Probed { site, outcome, .. } = &event
            && !matches!(outcome, ProbeOutcome::Up | ProbeOutcome::Unable { .. })
        {
            // Whatever the controller makes of it: this was more than one session.
            carrier.suspicions.judge(*site, Verdict::Lost);
        }
        let effects = controller.step(sys::now(), event);
        *world.view.lock().expect("no holder of the view panics") = controller.view();
        for effect in effects {
            carrier.carry(effect);
        }
        event = next(&world, &mut carrier, &controller, &mut ears).await;
    }
}

async fn next(world: &World, carrier: &mut Carrier, controller: &Controller, ears: &mut Ears) -> Event {
    loop {
        let now = sys::now();
        let nap = controller.next_deadline().map_or(NAP_MAX, |at| at.since(now)).min(NAP_MAX);
        let lease = async {
            match &mut ears.lease {
                Some(reports) => match reports.recv().await {
                    Some(report) => report,
                    // The keeper is gone: its lease runs out by itself.
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let heard = tokio::select! {
            biased;
            report = lease => carrier.lease_event(report),
            Some(suspicion) = ears.suspicions.recv() => {
                carrier.suspicions.take(suspicion, world.routes.map().writer)
            }
            Some(event) = ears.events.recv() => Some(event),
            () = tokio::time::sleep(nap) => Some(Event::Tick),
        };
        if let Some(event) = heard {
            return event;
        }
    }
}
