//! CreatePartitions (37): adds partitions to topics.

use std::collections::HashSet;

use posthaste_broker::right;

use super::create_topics::Failure;
use crate::context::Context;
use crate::names::NODE_ID;
use crate::reply;
use crate::wire::ErrorCode;
use crate::wire::messages::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopic, CreatePartitionsTopicResult,
};

pub async fn handle(cx: &Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let mut seen = HashSet::new();
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let result = match seen.insert(topic.name.clone()) {
            true => add(cx, topic, request.validate_only).await,
            false => Err((ErrorCode::InvalidRequest, "Duplicate topic name.".to_owned())),
        };
        let (error_code, message) = match result {
            Ok(()) => (ErrorCode::None, None),
            Err((error_code, message)) => (error_code, Some(message.into())),
        };
        results.push(CreatePartitionsTopicResult {
            name: topic.name.clone(),
            error_code,
            error_message: message,
        });
    }
    CreatePartitionsResponse { results, ..Default::default() }
}

async fn add(cx: &Context, wanted: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Failure> {
    let invalid = |why: String| Err((ErrorCode::InvalidPartitions, why));
    let topic = cx.topic::<right::Configure>(&wanted.name).map_err(|error| (error, error.to_string()))?;
    let current = topic.partitions.len();
    let max = cx.broker().limits().partitions_per_topic_max;
    let total = match u32::try_from(wanted.count) {
        Ok(total) if total as usize == current => {
            return invalid(format!("Topic already has {current} partition(s)."));
        }
        Ok(total) if (total as usize) < current => {
            return invalid(format!(
                "The topic {} currently has {current} partition(s); {total} would not be an increase.",
                wanted.name
            ));
        }
        Ok(total) if total <= max => total,
        _ => return invalid(format!("Number of partitions must be at most {max}.")),
    };
    if let Some(assignments) = &wanted.assignments {
        let added = total as usize - current;
        let here = assignments.iter().all(|assignment| assignment.broker_ids == [NODE_ID]);
        if assignments.len() != added || !here {
            let why = format!("{added} new partition(s) are each to be assigned to broker {NODE_ID}.");
            return Err((ErrorCode::InvalidReplicaAssignment, why));
        }
    }
    if !validate_only {
        let added = cx.client.add_partitions(&topic.name, total).await;
        added.map_err(|error| (reply::topic(&error), error.to_string()))?;
    }
    Ok(())
}
