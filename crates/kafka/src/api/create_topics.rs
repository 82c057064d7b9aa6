//! CreateTopics (19).

use std::collections::HashMap;

use posthaste_engine::catalog::{Action, Resource, TopicConfig};
use posthaste_model::Name;

use super::describe_configs::{DEFAULT, DYNAMIC_TOPIC};
use super::metadata::DEFAULT_PARTITIONS;
use crate::context::Context;
use crate::names::{NODE_ID, new_topic_name};
use crate::wire::ErrorCode;
use crate::wire::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfigs, CreatableTopicResult,
    CreateTopicsRequest, CreateTopicsResponse,
};
use crate::{reply, settings};

/// First version in which a client may leave partitions and replication to the broker (KIP-464).
const DEFAULTS_SINCE: i16 = 4;

/// Why something was not done, for the client.
pub type Failure = (ErrorCode, String);

pub async fn handle(cx: &Context, version: i16, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut times: HashMap<_, usize> = HashMap::new();
    for topic in &request.topics {
        *times.entry(topic.name.clone()).or_default() += 1;
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for wanted in &request.topics {
        // Kafka answers a name that stands twice once, as an error.
        let times = match times.remove(&wanted.name) {
            Some(times) => times,
            None => continue,
        };
        let created = match times {
            1 => create(cx, version, wanted, request.validate_only).await,
            _ => Err((ErrorCode::InvalidRequest, "Found multiple entries for this topic.".to_owned())),
        };
        topics.push(created.unwrap_or_else(|(error_code, message)| CreatableTopicResult {
            name: wanted.name.clone(),
            error_code,
            error_message: Some(message.into()),
            ..Default::default()
        }));
    }
    CreateTopicsResponse { topics, ..Default::default() }
}

async fn create(
    cx: &Context,
    version: i16,
    wanted: &CreatableTopic,
    validate_only: bool,
) -> Result<CreatableTopicResult, Failure> {
    let name = new_topic_name(&wanted.name).map_err(|why| (ErrorCode::InvalidTopicException, why))?;
    let failure = |error: &posthaste_broker::Error| match error {
        posthaste_broker::Error::Exists => {
            (ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists."))
        }
        error => (reply::topic(error), error.to_string()),
    };
    cx.client.may(Action::Configure, Resource::Topic, &name).map_err(|error| failure(&error))?;
    if cx.client.topic(&name).is_ok() {
        return Err(failure(&posthaste_broker::Error::Exists));
    }
    let partitions = partitions(cx, version, wanted)?;
    let limits = cx.broker().limits();
    let configs = wanted.configs.iter().map(|config| (&*config.name, config.value.as_deref()));
    let config = settings::create(configs, limits).map_err(|why| (ErrorCode::InvalidConfig, why))?;
    let mut result = result(cx, &name, partitions, &config);
    if !validate_only {
        let topic = cx.client.create_topic(&name, partitions, config).await;
        result.topic_id = cx.topic_ids.uuid(topic.map_err(|error| failure(&error))?.id);
    }
    Ok(result)
}

fn partitions(cx: &Context, version: i16, wanted: &CreatableTopic) -> Result<u32, Failure> {
    if !wanted.assignments.is_empty() {
        if wanted.num_partitions != -1 || wanted.replication_factor != -1 {
            let why = "Partitions and replication factor are -1 when replicas are assigned.";
            return Err((ErrorCode::InvalidRequest, why.to_owned()));
        }
        let count = assigned(&wanted.assignments)?;
        return in_range(cx, i64::from(count));
    }
    match wanted.replication_factor {
        1 => {}
        -1 if version >= DEFAULTS_SINCE => {}
        factor @ 2.. => {
            let why = format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor of \
                 {factor} cannot be reached because only 1 broker(s) are registered."
            );
            return Err((ErrorCode::InvalidReplicationFactor, why));
        }
        _ => {
            let why = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err((ErrorCode::InvalidReplicationFactor, why.to_owned()));
        }
    }
    match wanted.num_partitions {
        -1 if version >= DEFAULTS_SINCE => Ok(DEFAULT_PARTITIONS),
        count => in_range(cx, i64::from(count)),
    }
}

fn in_range(cx: &Context, count: i64) -> Result<u32, Failure> {
    let max = cx.broker().limits().partitions_per_topic_max;
    match u32::try_from(count) {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        _ => {
            let why = format!("Number of partitions must be 1 to {max}, or -1 to use the default value.");
            Err((ErrorCode::InvalidPartitions, why))
        }
    }
}

/// Every partition once, each on this broker.
fn assigned(assignments: &[CreatableReplicaAssignment]) -> Result<u32, Failure> {
    let invalid = |why: &str| (ErrorCode::InvalidReplicaAssignment, why.to_owned());
    if assignments.iter().any(|assignment| assignment.broker_ids != [NODE_ID]) {
        return Err(invalid(&format!("The only broker is {NODE_ID}.")));
    }
    let mut indexes: Vec<_> = assignments.iter().map(|assignment| assignment.partition_index).collect();
    indexes.sort_unstable();
    if !indexes.iter().enumerate().all(|(at, index)| usize::try_from(*index) == Ok(at)) {
        return Err(invalid("Partitions should be a consecutive 0-based integer sequence."));
    }
    u32::try_from(indexes.len()).map_err(|_| invalid("There are too many partitions."))
}

fn result(cx: &Context, name: &Name, partitions: u32, config: &TopicConfig) -> CreatableTopicResult {
    let configs = settings::describe(config, cx.broker().limits());
    let configs = configs.into_iter().map(|(setting, value, set)| CreatableTopicConfigs {
        name: setting.name.into(),
        value: Some(value.into()),
        read_only: setting.is_fixed(),
        config_source: if set { DYNAMIC_TOPIC } else { DEFAULT },
        is_sensitive: false,
    });
    CreatableTopicResult {
        name: (&**name).into(),
        num_partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        replication_factor: 1,
        configs: Some(configs.collect()),
        ..Default::default()
    }
}
