//! What stays in memory takes no more of it than it counts as.

use crate::{model::spec, world::World};
use bytes::Bytes;
use posthaste_engine::{
    Command,
    command::{Consume, Enqueue, Mode},
};
use posthaste_model::{ConsumerId, Envelope, Format, Payload, QueueId, Subject, Timestamp};

const QUEUE: QueueId = QueueId(1);

#[test]
fn a_message_that_nobody_takes_does_not_hold_the_buffer_it_was_read_into() {
    // Consumers' credit, when it is due; whether the message is copied.
    for (credit, due, copied) in [(0, None, true), (2, None, false), (2, Some(9_000), true), (1, None, true)]
    {
        let mut world = World::new();
        let spec = spec(QUEUE.0, |spec| spec.durable = false);
        world.step(Command::OpenQueue { queue: QUEUE, spec }, 0);
        if credit > 0 {
            let (consumer, mode) = (ConsumerId(1), Mode::Lease);
            let consume = Consume { queue: QUEUE, consumer, credit, mode, exclusive: false, priority: 0 };
            world.step(Command::Consume(consume), 0);
        }
        let enqueue = |text: Bytes, due: Option<i64>| {
            let mut envelope = Envelope::new(Subject::dotted(text.slice(..1)).unwrap(), Timestamp(1_000));
            envelope.due = due.map(Timestamp);
            let payload = Payload { format: Format::MESSAGE, head: text.slice(1..2), body: text.slice(2..) };
            Command::Enqueue(Enqueue { queue: QUEUE, envelope, payload })
        };
        world.step(enqueue(Bytes::from_static(b"another"), None), 0);
        let buffer = Bytes::from(vec![b'x'; 1_000]);
        world.step(enqueue(buffer.slice(..100), due), 0);
        assert_eq!(buffer.is_unique(), copied, "credit {credit}, due {due:?}");
    }
}
