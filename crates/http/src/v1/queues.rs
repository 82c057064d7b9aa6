//! Queues: what they are, and what they hold.

use crate::{
    call::{Answer, Call, Page, Reply, name, within},
    failure::Failure,
};
use posthaste_broker::{QueueDeclaration, right};
use posthaste_engine::{
    catalog::{DeadLetter, Durability, Overflow, Queue, QueueConfig, Resource},
    effect::QueueState,
};
use posthaste_model::Subject;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// What can be set, and what is shown of it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    priorities: u8,
    ttl_ms: Option<u64>,
    unused_ms_max: Option<u64>,
    length_max: Option<u64>,
    overflow: OverflowName,
    dead_letter: Option<DeadLetterView>,
    delivery_limit: Option<u32>,
    single_active: bool,
    durability: Durability,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum OverflowName {
    #[default]
    DropOldest,
    Reject,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct DeadLetterView {
    /// None for the default exchange, which routes by queue name.
    exchange: Option<String>,
    /// None keeps the message's own subject.
    subject: Option<String>,
}

#[derive(Deserialize)]
struct Creation {
    name: String,
    durable: Option<bool>,
    auto_delete: Option<bool>,
    #[serde(flatten)]
    settings: Map<String, Json>,
}

#[derive(Serialize)]
struct View {
    name: String,
    durable: bool,
    auto_delete: bool,
    /// Belongs to one connection; only that one can use it or count its messages.
    exclusive: bool,
    #[serde(flatten)]
    counts: Option<Counts>,
    #[serde(flatten)]
    settings: Settings,
    created_ms: i64,
}

#[derive(Serialize)]
struct Counts {
    ready: u64,
    leased: u64,
    delayed: u64,
    consumers: u32,
}

#[derive(Serialize)]
struct List {
    queues: Vec<View>,
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deletion {
    #[serde(default)]
    if_unused: bool,
    #[serde(default)]
    if_empty: bool,
}

#[derive(Serialize)]
struct Emptied {
    /// How many messages went.
    messages: u64,
}

pub async fn list(call: &Call) -> Answer {
    let page: Page = call.parameters()?;
    let namespace = call.namespace()?;
    let all = namespace.queues.values().filter(|q| call.sees(Resource::Queue, &q.name));
    let (page, next) = page.cut(all, |q| q.name.as_str())?;
    let mut queues = Vec::with_capacity(page.len());
    for queue in page {
        queues.push(view(call, queue).await);
    }
    Reply::json(&List { queues, next })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let name = name(&creation.name)?;
    if name.starts_with("amq.") {
        return Err(Failure::from(posthaste_broker::Error::Protected));
    }
    let config = parse(creation.settings)?.into_config(call, QueueConfig::default())?;
    let declaration = QueueDeclaration {
        config,
        durable: creation.durable.unwrap_or(true),
        exclusive: false,
        auto_delete: creation.auto_delete.unwrap_or(false),
        owner: None,
    };
    let queue = call.client.create_queue(&name, declaration).await?;
    Reply::created(&view(call, &queue).await)
}

pub async fn describe(call: &Call) -> Answer {
    call.check_sees(Resource::Queue, call.text())?;
    let namespace = call.namespace()?;
    let queue = namespace.queues.get(call.text());
    let queue = queue.ok_or_else(|| Failure::not_found(format!("there is no queue '{}'", call.text())))?;
    Reply::json(&view(call, queue).await)
}

/// Changes what is named in the body, and nothing else.
pub async fn change(call: &Call) -> Answer {
    let changes: Map<String, Json> = call.json()?;
    let queue = call.client.queue_to::<right::Configure>(call.text())?;
    if changes.contains_key("priorities") {
        return Err(Failure::invalid("a queue's priorities are set when it is created"));
    }
    let Ok(Json::Object(mut settings)) = serde_json::to_value(Settings::of(&queue.config)) else {
        return Err(Failure::invalid("the queue's settings cannot be changed over HTTP"));
    };
    settings.extend(changes);
    let config = parse(settings)?.into_config(call, queue.config.clone())?;
    if config != queue.config {
        call.client.configure_queue(&queue.name, config).await?;
    }
    let queue = call.client.queue(&queue.name)?;
    Reply::json(&view(call, &queue).await)
}

pub async fn delete(call: &Call) -> Answer {
    let Deletion { if_unused, if_empty } = call.parameters()?;
    let messages = call.client.delete_queue(call.text(), if_unused, if_empty).await?;
    Reply::json(&Emptied { messages })
}

pub async fn purge(call: &Call) -> Answer {
    let messages = call.client.purge_queue(call.text()).await?;
    Reply::json(&Emptied { messages })
}

fn parse(settings: Map<String, Json>) -> Result<Settings, Failure> {
    serde_json::from_value(Json::Object(settings)).map_err(|e| Failure::invalid(format!("request body: {e}")))
}

impl Settings {
    fn of(config: &QueueConfig) -> Settings {
        let overflow = match config.overflow {
            Overflow::DropOldest => OverflowName::DropOldest,
            Overflow::Reject => OverflowName::Reject,
        };
        let dead_letter = config.dead_letter.as_ref().map(|dead| DeadLetterView {
            exchange: dead.exchange.as_ref().map(|e| e.to_string()),
            subject: dead.subject.as_ref().map(|s| s.to_dotted().into_owned()),
        });
        Settings {
            priorities: config.priorities,
            ttl_ms: config.ttl_ms,
            unused_ms_max: config.unused_ms_max,
            length_max: config.length_max,
            overflow,
            dead_letter,
            delivery_limit: config.delivery_limit,
            single_active: config.single_active,
            durability: config.durability,
        }
    }

    fn into_config(self, call: &Call, base: QueueConfig) -> Result<QueueConfig, Failure> {
        let overflow = match self.overflow {
            OverflowName::DropOldest => Overflow::DropOldest,
            OverflowName::Reject => Overflow::Reject,
        };
        let dead_letter = match self.dead_letter {
            None => None,
            Some(dead) => Some(DeadLetter {
                exchange: dead.exchange.filter(|e| !e.is_empty()).as_deref().map(name).transpose()?,
                subject: dead
                    .subject
                    .map(Subject::dotted)
                    .transpose()
                    .map_err(|e| Failure::invalid(format!("dead_letter: {e}")))?,
            }),
        };
        if self.unused_ms_max == Some(0) {
            return Err(Failure::invalid("unused_ms_max is at least 1"));
        }
        let max = call.broker().limits().priorities_per_queue_max;
        Ok(QueueConfig {
            priorities: within("priorities", self.priorities, 0, max)?,
            ttl_ms: self.ttl_ms,
            unused_ms_max: self.unused_ms_max,
            length_max: self.length_max,
            overflow,
            dead_letter,
            delivery_limit: self.delivery_limit,
            single_active: self.single_active,
            durability: self.durability,
            ..base
        })
    }
}

async fn view(call: &Call, queue: &Queue) -> View {
    // Nobody but its owner can look into an exclusive queue; and one that has just gone has nothing to count.
    let state = call.client.queue_state(&queue.name).await.ok();
    let counts = |QueueState { ready, leased, delayed, consumers, .. }: QueueState| Counts {
        ready,
        leased,
        delayed,
        consumers,
    };
    View {
        name: queue.name.to_string(),
        durable: queue.durable,
        auto_delete: queue.auto_delete,
        exclusive: queue.exclusive.is_some(),
        counts: state.map(counts),
        settings: Settings::of(&queue.config),
        created_ms: queue.created.0,
    }
}
