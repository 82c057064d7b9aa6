//! DescribeTopicPartitions (75): partitions of topics, page by page (KIP-966).

use std::sync::Arc;

use bytestring::ByteString;
use posthaste_engine::catalog::Topic;

use crate::context::Context;
use crate::limits::DESCRIBED_PARTITIONS_MAX;
use crate::names::NODE_ID;
use crate::wire::ErrorCode;
use crate::wire::messages::describe_topic_partitions::{
    Cursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};

pub fn handle(cx: &Context, request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let mut room = request.response_partition_limit.clamp(1, DESCRIBED_PARTITIONS_MAX);
    let mut topics = Vec::new();
    let mut next_cursor = None;
    for (name, topic) in wanted(cx, request) {
        let first = match &request.cursor {
            Some(cursor) if cursor.topic_name == name => cursor.partition_index.max(0),
            _ => 0,
        };
        if room == 0 {
            next_cursor = Some(Cursor { topic_name: name, partition_index: first });
            break;
        }
        let topic = match topic {
            Ok(topic) => topic,
            Err(error_code) => {
                topics.push(DescribeTopicPartitionsResponseTopic {
                    error_code,
                    name: Some(name),
                    ..Default::default()
                });
                continue;
            }
        };
        let end = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        let until = first.saturating_add(room).min(end).max(first);
        room -= until - first;
        topics.push(describe(cx, &topic, first..until));
        if until < end {
            next_cursor = Some(Cursor { topic_name: name, partition_index: until });
            break;
        }
    }
    DescribeTopicPartitionsResponse { topics, next_cursor, ..Default::default() }
}

type Wanted = (ByteString, Result<Arc<Topic>, ErrorCode>);

/// The topics from the cursor on, by name.
fn wanted(cx: &Context, request: &DescribeTopicPartitionsRequest) -> Vec<Wanted> {
    let catalog = cx.catalog();
    let namespace = catalog.namespace(cx.client.namespace());
    let find = |name: &str| namespace.and_then(|namespace| namespace.topics.get(name)).cloned();
    let mut topics: Vec<Wanted> = if request.topics.is_empty() {
        let all = namespace.into_iter().flat_map(|namespace| namespace.topics.values());
        let all = all.filter(|topic| cx.may_describe_topic(&topic.name).is_ok());
        all.map(|topic| ((&*topic.name).into(), Ok(topic.clone()))).collect()
    } else {
        let one = |name: &ByteString| {
            let found = match cx.may_describe_topic(name) {
                Err(_) => Err(ErrorCode::TopicAuthorizationFailed),
                Ok(()) => find(name).ok_or(ErrorCode::UnknownTopicOrPartition),
            };
            (name.clone(), found)
        };
        request.topics.iter().map(|topic| one(&topic.name)).collect()
    };
    topics.sort_by(|(a, _), (b, _)| a.cmp(b));
    topics.dedup_by(|(a, _), (b, _)| a == b);
    if let Some(cursor) = &request.cursor {
        topics.retain(|(name, _)| *name >= cursor.topic_name);
    }
    topics
}

fn describe(
    cx: &Context,
    topic: &Topic,
    indexes: std::ops::Range<i32>,
) -> DescribeTopicPartitionsResponseTopic {
    let leader_epoch = cx.epoch();
    let partition = |partition_index| DescribeTopicPartitionsResponsePartition {
        partition_index,
        leader_id: NODE_ID,
        leader_epoch,
        replica_nodes: vec![NODE_ID],
        isr_nodes: vec![NODE_ID],
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        ..Default::default()
    };
    DescribeTopicPartitionsResponseTopic {
        name: Some((&*topic.name).into()),
        topic_id: cx.topic_ids.uuid(topic.id),
        partitions: indexes.map(partition).collect(),
        topic_authorized_operations: cx.topic_operations(&topic.name),
        ..Default::default()
    }
}
