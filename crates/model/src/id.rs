//! Identifiers. They are assigned once and never reused, also across restarts.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One of the fixed number of virtual shards that state is divided into.
    ShardId(u16)
);
id!(
    /// A topic: a partitioned log kept by retention.
    TopicId(u64)
);
id!(
    /// One partition of a topic; also the id of the stream that stores it.
    PartitionId(u64)
);
id!(
    /// A queue: a work list kept until settled; also the id of the stream that stores its first lane.
    QueueId(u64)
);
id!(
    /// A set of routing rules.
    ExchangeId(u64)
);
id!(
    /// A reader of a queue or subscription for as long as it is connected. Volatile.
    ConsumerId(u64)
);
id!(
    /// A client connection for as long as it lasts. Volatile.
    ConnectionId(u64)
);
id!(
    /// A position in one partition or queue, counted in messages from 0.
    Offset(u64)
);
