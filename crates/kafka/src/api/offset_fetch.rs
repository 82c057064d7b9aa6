//! OffsetFetch (9): reads what groups have committed. Up to version 7 of one group, from 8 of several.

use std::collections::{BTreeMap, HashMap};

use bytestring::ByteString;
use posthaste_engine::Catalog;
use posthaste_engine::event::CommittedOffset;
use posthaste_model::TopicId;

use crate::context::{Context, signed};
use crate::names::group_name;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestTopic, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};

pub async fn handle(cx: &Context, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let catalog = cx.catalog();
    if version >= 8 {
        let mut groups = Vec::with_capacity(request.groups.len());
        for group in request.groups {
            let (topics, error_code) = fetch(cx, &catalog, &group.group_id, group.topics).await;
            groups.push(OffsetFetchResponseGroup { group_id: group.group_id, topics, error_code });
        }
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    // Version 1 can tell an error only with each partition.
    let asked = if version < 2 { request.topics.clone() } else { None };
    let (mut topics, error_code) = fetch(cx, &catalog, &request.group_id, request.topics).await;
    if error_code.is_error() {
        topics = asked.into_iter().flatten().map(|topic| failed(topic, error_code)).collect();
    }
    OffsetFetchResponse { topics, error_code, ..Default::default() }
}

async fn fetch(
    cx: &Context,
    catalog: &Catalog,
    group: &str,
    wanted: Option<Vec<OffsetFetchRequestTopic>>,
) -> (Vec<OffsetFetchResponseTopic>, ErrorCode) {
    let group = match group_name(group) {
        Ok(group) => group,
        Err(error_code) => return (Vec::new(), error_code),
    };
    let namespace = catalog.namespace(cx.client.namespace());
    let id = |name: &str| namespace.and_then(|namespace| namespace.topics.get(name)).map(|topic| topic.id);
    let partitions = wanted.as_ref().map(|topics| {
        let of = |topic: &OffsetFetchRequestTopic| -> Vec<(TopicId, u32)> {
            let Some(id) = id(&topic.name) else { return Vec::new() };
            topic
                .partition_indexes
                .iter()
                .filter_map(|index| Some((id, u32::try_from(*index).ok()?)))
                .collect()
        };
        topics.iter().flat_map(of).collect()
    });
    let committed = match cx.client.fetch_offsets(&group, partitions).await {
        Ok(committed) => committed,
        Err(error) => return (Vec::new(), reply::group(&error)),
    };
    let topics = match wanted {
        None => all(cx, catalog, committed),
        Some(wanted) => {
            let committed: HashMap<_, _> =
                committed.into_iter().map(|offset| ((offset.topic, offset.partition), offset)).collect();
            let find = |topic: OffsetFetchRequestTopic| match cx.may_describe_topic(&topic.name) {
                Ok(()) => some(topic, &id, &committed),
                Err(_) => failed(topic, ErrorCode::TopicAuthorizationFailed),
            };
            wanted.into_iter().map(find).collect()
        }
    };
    (topics, ErrorCode::None)
}

/// What is committed for topics that still exist.
fn all(cx: &Context, catalog: &Catalog, committed: Vec<CommittedOffset>) -> Vec<OffsetFetchResponseTopic> {
    let mut topics: BTreeMap<ByteString, Vec<OffsetFetchResponsePartition>> = BTreeMap::new();
    for offset in committed {
        let Some(topic) = cx.topic_with_id(catalog, offset.topic) else { continue };
        if cx.may_describe_topic(&topic.name).is_err() {
            continue;
        }
        let index = i32::try_from(offset.partition).unwrap_or(i32::MAX);
        topics.entry((&*topic.name).into()).or_default().push(partition(index, Some(&offset)));
    }
    topics.into_iter().map(|(name, partitions)| OffsetFetchResponseTopic { name, partitions }).collect()
}

fn some(
    topic: OffsetFetchRequestTopic,
    id: &impl Fn(&str) -> Option<TopicId>,
    committed: &HashMap<(TopicId, u32), CommittedOffset>,
) -> OffsetFetchResponseTopic {
    let id = id(&topic.name);
    let find = |index: &i32| id.zip(u32::try_from(*index).ok()).and_then(|key| committed.get(&key));
    let partitions = topic.partition_indexes.iter().map(|index| partition(*index, find(index))).collect();
    OffsetFetchResponseTopic { name: topic.name, partitions }
}

fn partition(partition_index: i32, committed: Option<&CommittedOffset>) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index,
        committed_offset: committed.map_or(-1, |offset| signed(offset.offset)),
        committed_leader_epoch: committed.map_or(-1, |offset| offset.epoch),
        metadata: Some(committed.map_or("", |offset| &offset.metadata).into()),
        ..Default::default()
    }
}

fn failed(topic: OffsetFetchRequestTopic, error_code: ErrorCode) -> OffsetFetchResponseTopic {
    let partition = |index: &i32| OffsetFetchResponsePartition { error_code, ..partition(*index, None) };
    let partitions = topic.partition_indexes.iter().map(partition).collect();
    OffsetFetchResponseTopic { name: topic.name, partitions }
}
