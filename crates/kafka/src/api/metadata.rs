//! Metadata (3): the broker, the topics, and who leads their partitions.

use std::sync::Arc;

use posthaste_broker::Error;
use posthaste_engine::Catalog;
use posthaste_engine::catalog::Topic;

use crate::context::Context;
use crate::names::{NODE_ID, new_topic_name};
use crate::wire::ErrorCode;
use crate::wire::messages::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use crate::{reply, settings};

/// Partitions of a topic that is created because somebody asked for it: Kafka's `num.partitions`.
pub const DEFAULT_PARTITIONS: u32 = 1;

pub async fn handle(cx: &Context, version: i16, request: MetadataRequest) -> MetadataResponse {
    let catalog = cx.catalog();
    let with_operations = request.include_topic_authorized_operations;
    let wanted = request.topics.filter(|topics| !(version == 0 && topics.is_empty()));
    let mut topics = match wanted {
        None => all(cx, &catalog),
        Some(wanted) => {
            let mut topics = Vec::with_capacity(wanted.len());
            for topic in wanted {
                topics.push(one(cx, &catalog, topic, request.allow_auto_topic_creation).await);
            }
            topics
        }
    };
    if with_operations {
        for topic in topics.iter_mut().filter(|topic| !topic.error_code.is_error()) {
            topic.topic_authorized_operations =
                cx.topic_operations(topic.name.as_deref().unwrap_or_default());
        }
    }
    let endpoint = cx.endpoint();
    let broker =
        MetadataResponseBroker { node_id: NODE_ID, host: endpoint.host, port: endpoint.port, rack: None };
    let cluster_operations = request.include_cluster_authorized_operations.then(|| cx.cluster_operations());
    MetadataResponse {
        brokers: vec![broker],
        cluster_id: Some(cx.broker().cluster_id().into()),
        controller_id: NODE_ID,
        topics,
        cluster_authorized_operations: cluster_operations.unwrap_or(i32::MIN),
        ..Default::default()
    }
}

/// All topics that the client may know of.
fn all(cx: &Context, catalog: &Catalog) -> Vec<MetadataResponseTopic> {
    let namespace = catalog.namespace(cx.client.namespace());
    let topics = namespace.into_iter().flat_map(|namespace| namespace.topics.values());
    topics
        .filter(|topic| cx.may_describe_topic(&topic.name).is_ok())
        .map(|topic| describe(cx, topic))
        .collect()
}

async fn one(
    cx: &Context,
    catalog: &Catalog,
    wanted: MetadataRequestTopic,
    create: bool,
) -> MetadataResponseTopic {
    let failed = |error_code| MetadataResponseTopic {
        error_code,
        name: wanted.name.clone(),
        topic_id: wanted.topic_id,
        ..Default::default()
    };
    if !wanted.topic_id.is_zero() {
        let topic = cx.topic_of(catalog, wanted.topic_id);
        let topic = topic.filter(|topic| cx.may_describe_topic(&topic.name).is_ok());
        return topic.map_or_else(|| failed(ErrorCode::UnknownTopicId), |topic| describe(cx, &topic));
    }
    let name = wanted.name.as_deref().unwrap_or_default();
    if cx.may_describe_topic(name).is_err() {
        return failed(ErrorCode::TopicAuthorizationFailed);
    }
    let namespace = catalog.namespace(cx.client.namespace());
    if let Some(topic) = namespace.and_then(|namespace| namespace.topics.get(name)) {
        return describe(cx, topic);
    }
    match find_or_create(cx, name, create).await {
        Ok(topic) => describe(cx, &topic),
        Err(error_code) => failed(error_code),
    }
}

/// A topic that was not there when the request came.
async fn find_or_create(cx: &Context, name: &str, create: bool) -> Result<Arc<Topic>, ErrorCode> {
    let name = new_topic_name(name).map_err(|_| ErrorCode::InvalidTopicException)?;
    if !create {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    let config = settings::create([], cx.broker().limits()).map_err(|_| ErrorCode::UnknownServerError)?;
    let created = match cx.client.create_topic(&name, DEFAULT_PARTITIONS, config).await {
        Err(Error::Exists) => cx.client.topic(&name),
        created => created,
    };
    created.map_err(|error| reply::topic(&error))
}

fn describe(cx: &Context, topic: &Topic) -> MetadataResponseTopic {
    let leader_epoch = cx.epoch();
    let partition = |index: usize| MetadataResponsePartition {
        partition_index: i32::try_from(index).unwrap_or(i32::MAX),
        leader_id: NODE_ID,
        leader_epoch,
        replica_nodes: vec![NODE_ID],
        isr_nodes: vec![NODE_ID],
        ..Default::default()
    };
    MetadataResponseTopic {
        name: Some((&*topic.name).into()),
        topic_id: cx.topic_ids.uuid(topic.id),
        partitions: (0..topic.partitions.len()).map(partition).collect(),
        ..Default::default()
    }
}
