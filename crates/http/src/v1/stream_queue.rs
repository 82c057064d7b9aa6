//! A queue's messages, live. Each is accepted once the connection has taken it.

use crate::{
    call::{Answer, Call, Reply, within},
    failure::Failure,
    v1::{
        stream::{Ended, Lines, Mailbox, mailbox},
        take::show,
    },
};
use posthaste_broker::{Client, ConsumeOptions, Holder, right};
use posthaste_engine::{
    Position,
    catalog::{Queue, Resource},
    command::{Mode, Outcome},
};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    /// Ends after so many.
    count: Option<u64>,
    /// Messages that may be on their way.
    prefetch: Option<u32>,
}

const PREFETCH_DEFAULT: u32 = 100;

/// `POST /v1/queues/{name}/stream`
pub async fn start(call: Call) -> Answer {
    let Parameters { count, prefetch } = call.json_or_parameters()?;
    let count = within("count", count.unwrap_or(u64::MAX), 1, u64::MAX)?;
    let max = call.broker().limits().unsettled_per_consumer_max.max(1);
    let prefetch = within("prefetch", prefetch.unwrap_or(PREFETCH_DEFAULT.min(max)), 1, max)?;
    let prefetch = u32::try_from(count).unwrap_or(u32::MAX).min(prefetch);
    let queue = call.client.queue_to::<right::Read>(call.text())?;
    let (sink, mailbox) = mailbox();
    call.client.audit_read(Resource::Queue, call.text());
    let judged = Arc::clone(&queue);
    let (lines, body) =
        Lines::new(&call, move |client| client.allow::<right::Read, _>(judged.clone()).map(drop))?;
    let holder = call.client.holder(&queue);
    let options = ConsumeOptions { credit: prefetch, mode: Mode::Lease, exclusive: false, priority: 0 };
    call.client.consume(holder, options, sink).await?;
    let queue = Arc::clone(&queue);
    let reader = Reader { client: call.client.clone(), queue, holder, prefetch, held: Vec::new() };
    tokio::spawn(reader.run(lines, mailbox, count));
    Ok(Reply::Lines(body))
}

struct Reader {
    client: Client,
    queue: Arc<Queue>,
    holder: Holder,
    prefetch: u32,
    /// Sent, and not accepted yet.
    held: Vec<(u8, Position)>,
}

impl Reader {
    async fn run(mut self, mut lines: Lines, mut mailbox: Mailbox, count: u64) {
        let gone = self.read(&mut lines, &mut mailbox, count).await.is_ok_and(|all| !all);
        // First nothing more comes, then what was sent is accepted, then the rest goes back.
        self.client.cancel(self.holder).await;
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let accepted = self.client.settle_durably(self.holder, held, Outcome::Accept);
            // They come again, then; nothing is lost.
            let _ = accepted.await;
        }
        self.client.detach(self.holder).await;
        if gone {
            lines.fail(&Failure::not_found(format!("queue '{}' was deleted", self.queue.name))).await;
        }
    }

    /// True when all were sent, false when the queue is gone.
    async fn read(&mut self, lines: &mut Lines, mailbox: &mut Mailbox, count: u64) -> Result<bool, Ended> {
        let (mut sent, mut accepted) = (0u64, 0u64);
        while sent < count {
            let arrived = tokio::select! {
                arrived = mailbox.recv() => arrived,
                ended = lines.ended() => return Err(ended),
            };
            let Some(Some(deliveries)) = arrived else { return Ok(false) };
            let room = usize::try_from(count - sent).unwrap_or(usize::MAX);
            let resolved = self.client.broker().resolve(deliveries).await.into_iter().take(room);
            let (mut messages, mut places) = (Vec::new(), Vec::new());
            for resolved in resolved {
                places.push((resolved.delivery.lane, resolved.delivery.position));
                // What cannot be shown is reported, and passed over like what was read.
                messages.extend(show(self.client.broker(), &self.queue.name, resolved));
            }
            lines.send(messages).await?;
            sent += places.len() as u64;
            self.held.extend(places);
            // Accepting lets as many new ones come, and no more may come than are wanted.
            let allowed = count.saturating_sub(u64::from(self.prefetch)).saturating_sub(accepted);
            let now = usize::try_from(allowed).unwrap_or(usize::MAX).min(self.held.len());
            if now > 0 {
                accepted += now as u64;
                let held = self.held.drain(..now).collect();
                self.client.settle(self.holder, held, Outcome::Accept);
            }
        }
        Ok(true)
    }
}
