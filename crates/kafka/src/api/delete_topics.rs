//! DeleteTopics (20): deletes topics, by name or by id.

use bytestring::ByteString;

use crate::context::Context;
use crate::reply;
use crate::wire::messages::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use crate::wire::{ErrorCode, Uuid};

pub async fn handle(cx: &Context, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let by_name = |name| DeleteTopicState { name: Some(name), topic_id: Uuid::ZERO };
    let topics = match version {
        0..=5 => request.topic_names.into_iter().map(by_name).collect(),
        _ => request.topics,
    };
    let mut responses = Vec::with_capacity(topics.len());
    for topic in topics {
        let named = name(cx, &topic);
        let deleted = match &named {
            Ok((name, _)) => delete(cx, name).await,
            Err(error_code) => Err((*error_code, error_code.to_string())),
        };
        let (name, topic_id) = match named {
            Ok((name, id)) => (Some(name), id),
            Err(_) => (topic.name, topic.topic_id),
        };
        let (error_code, message) = match deleted {
            Ok(()) => (ErrorCode::None, None),
            Err((error_code, message)) => (error_code, Some(message.into())),
        };
        responses.push(DeletableTopicResult { name, topic_id, error_code, error_message: message });
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}

/// Name and id of the topic meant; the id is zero when there is no such topic.
fn name(cx: &Context, topic: &DeleteTopicState) -> Result<(ByteString, Uuid), ErrorCode> {
    let catalog = cx.catalog();
    match &topic.name {
        Some(_) if !topic.topic_id.is_zero() => Err(ErrorCode::InvalidRequest),
        Some(name) => {
            let namespace = catalog.namespace(cx.client.namespace());
            // A client that may not know the topic is not told its id.
            let found = namespace.and_then(|namespace| namespace.topics.get(&**name));
            let found = found.filter(|topic| cx.may_describe_topic(&topic.name).is_ok());
            Ok((name.clone(), found.map_or(Uuid::ZERO, |topic| cx.topic_ids.uuid(topic.id))))
        }
        None => {
            let found = cx.topic_of(&catalog, topic.topic_id).ok_or(ErrorCode::UnknownTopicId)?;
            // A client that may not know the topic is not told its name.
            cx.may_describe_topic(&found.name).map_err(|_| ErrorCode::TopicAuthorizationFailed)?;
            Ok(((&*found.name).into(), topic.topic_id))
        }
    }
}

async fn delete(cx: &Context, name: &str) -> Result<(), (ErrorCode, String)> {
    let unknown =
        || (ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.".to_owned());
    let name = posthaste_model::Name::new(name).map_err(|_| unknown())?;
    cx.client.delete_topic(&name).await.map_err(|error| match reply::topic(&error) {
        ErrorCode::UnknownTopicOrPartition => unknown(),
        error_code => (error_code, error.to_string()),
    })
}
