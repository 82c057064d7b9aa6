//! Topics: what they are, and what their partitions hold.

use crate::{
    call::{Answer, Call, Page, Reply, name, within},
    failure::Failure,
};
use posthaste_broker::right;
use posthaste_engine::catalog::{Durability, Resource, Topic, TopicConfig};
use posthaste_model::{Pattern, Syntax};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// What can be set, and what is shown of it.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    captures: Vec<String>,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    message_bytes_max: Option<u64>,
    durability: Durability,
    broker_timestamps: bool,
}

#[derive(Deserialize)]
struct Creation {
    name: String,
    partitions: Option<u32>,
    #[serde(flatten)]
    settings: Map<String, Json>,
}

#[derive(Serialize)]
struct View {
    name: String,
    partitions: usize,
    /// Over all partitions, by offsets.
    messages: u64,
    /// Over all partitions, as stored.
    bytes: u64,
    #[serde(flatten)]
    settings: Settings,
    created_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    offsets: Option<Vec<PartitionView>>,
}

#[derive(Serialize)]
struct PartitionView {
    partition: usize,
    start: u64,
    end: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct List {
    topics: Vec<View>,
    next: Option<String>,
}

pub fn list(call: &Call) -> Answer {
    let page: Page = call.parameters()?;
    let namespace = call.namespace()?;
    let all = namespace.topics.values().filter(|t| call.sees(Resource::Topic, &t.name));
    let (topics, next) = page.cut(all, |t| t.name.as_str())?;
    let topics = topics.into_iter().map(|topic| view(call, topic, false)).collect();
    Reply::json(&List { topics, next })
}

pub async fn create(call: &Call) -> Answer {
    let creation: Creation = call.json()?;
    let name = name(&creation.name)?;
    let partitions = partitions(call, creation.partitions.unwrap_or(1))?;
    let settings = parse(creation.settings)?;
    let config = settings.into_config(TopicConfig::default())?;
    let topic = call.client.create_topic(&name, partitions, config).await?;
    Reply::created(&view(call, &topic, true))
}

pub fn describe(call: &Call) -> Answer {
    call.check_sees(Resource::Topic, call.text())?;
    let topic = call.client.topic(call.text())?;
    Reply::json(&view(call, &topic, true))
}

/// Changes what is named in the body, and nothing else.
pub async fn change(call: &Call) -> Answer {
    let topic = call.client.topic_to::<right::Configure>(call.text())?;
    let mut changes: Map<String, Json> = call.json()?;
    let wanted = changes.remove("partitions");
    let wanted = wanted.map(serde_json::from_value::<u32>).transpose();
    let wanted = wanted.map_err(|e| Failure::invalid(format!("partitions: {e}")))?;
    let wanted = wanted.map(|wanted| partitions(call, wanted)).transpose()?;
    if !changes.is_empty() {
        let config = overlaid(&topic, changes)?.into_config(topic.config.clone())?;
        if config != topic.config {
            call.client.configure_topic(&topic.name, config).await?;
        }
    }
    if let Some(wanted) = wanted
        && wanted as usize != topic.partitions.len()
    {
        call.client.add_partitions(&topic.name, wanted).await?;
    }
    let topic = call.client.topic(&topic.name)?;
    Reply::json(&view(call, &topic, true))
}

pub async fn delete(call: &Call) -> Answer {
    let topic = call.client.topic_to::<right::Configure>(call.text())?;
    call.client.delete_topic(&topic.name).await?;
    Ok(Reply::Nothing)
}

fn partitions(call: &Call, wanted: u32) -> Result<u32, Failure> {
    within("partitions", wanted, 1, call.broker().limits().partitions_per_topic_max)
}

fn parse(settings: Map<String, Json>) -> Result<Settings, Failure> {
    serde_json::from_value(Json::Object(settings)).map_err(|e| Failure::invalid(format!("request body: {e}")))
}

/// The settings of a topic, with some of them changed.
fn overlaid(topic: &Topic, changes: Map<String, Json>) -> Result<Settings, Failure> {
    let Ok(Json::Object(mut settings)) = serde_json::to_value(Settings::of(&topic.config)) else {
        return Err(Failure::invalid("the topic's settings cannot be changed over HTTP"));
    };
    settings.extend(changes);
    parse(settings)
}

impl Settings {
    fn of(config: &TopicConfig) -> Settings {
        Settings {
            captures: config.captures.iter().map(Pattern::to_string).collect(),
            retention_ms: config.retention_ms,
            retention_bytes: config.retention_bytes,
            message_bytes_max: config.message_bytes_max,
            durability: config.durability,
            broker_timestamps: config.broker_timestamps,
        }
    }

    fn into_config(self, base: TopicConfig) -> Result<TopicConfig, Failure> {
        let pattern = |text: &String| {
            Pattern::parse(text, Syntax::DOTTED)
                .map_err(|e| Failure::invalid(format!("capture '{}': {e}", crate::call::shortened(text))))
        };
        Ok(TopicConfig {
            captures: self.captures.iter().map(pattern).collect::<Result<_, _>>()?,
            retention_ms: self.retention_ms,
            retention_bytes: self.retention_bytes,
            message_bytes_max: self.message_bytes_max,
            durability: self.durability,
            broker_timestamps: self.broker_timestamps,
            ..base
        })
    }
}

fn view(call: &Call, topic: &Arc<Topic>, with_offsets: bool) -> View {
    let seen = call.client.allow::<right::See, _>(topic.clone()).ok();
    let extent = |index| call.client.extent(seen.as_ref()?.partition(index)?).ok();
    let partitions = (0..topic.partitions.len()).map(|partition| match extent(partition) {
        Some(e) => PartitionView { partition, start: e.start(), end: e.end(), bytes: e.bytes() },
        None => PartitionView { partition, start: 0, end: 0, bytes: 0 },
    });
    let offsets: Vec<PartitionView> = partitions.collect();
    View {
        name: topic.name.to_string(),
        partitions: topic.partitions.len(),
        messages: offsets.iter().map(|p| p.end.saturating_sub(p.start)).sum(),
        bytes: offsets.iter().map(|p| p.bytes).sum(),
        settings: Settings::of(&topic.config),
        created_ms: topic.created.0,
        offsets: with_offsets.then_some(offsets),
    }
}
