//! What the broker says, in Kafka's error codes. The only place that knows which is which.

use posthaste_broker::{Error, ReadError};
use posthaste_engine::{catalog::Resource, effect::Refusal};

use crate::wire::ErrorCode;
use crate::wire::records::RecordsError;

/// The code for what went wrong with a topic or one of its partitions.
pub fn topic(error: &Error) -> ErrorCode {
    match error {
        Error::Denied { resource, .. } => denied(*resource),
        Error::Exists => ErrorCode::TopicAlreadyExists,
        Error::Gone | Error::NotFound(..) => ErrorCode::UnknownTopicOrPartition,
        Error::Invalid(_) => ErrorCode::InvalidRequest,
        Error::InUse
        | Error::LimitReached(_)
        | Error::Locked
        | Error::NotEmpty
        | Error::Protected
        | Error::TooMany => ErrorCode::PolicyViolation,
        Error::Refused(refusal) => append(*refusal),
        // Clients look for the leader again and come back once the broker is up.
        Error::Stopping => ErrorCode::NotLeaderOrFollower,
        Error::Unreadable(_) => ErrorCode::KafkaStorageError,
    }
}

/// The code for what went wrong with a group.
pub fn group(error: &Error) -> ErrorCode {
    match error {
        Error::Denied { resource, .. } => denied(*resource),
        Error::Gone | Error::NotFound(..) => ErrorCode::GroupIdNotFound,
        Error::Invalid(_) => ErrorCode::InvalidRequest,
        Error::Refused(refusal) => member(*refusal),
        Error::Stopping => ErrorCode::NotCoordinator,
        Error::NotEmpty => ErrorCode::NonEmptyGroup,
        Error::Exists
        | Error::InUse
        | Error::LimitReached(_)
        | Error::Locked
        | Error::Protected
        | Error::TooMany => ErrorCode::PolicyViolation,
        Error::Unreadable(_) => ErrorCode::CoordinatorNotAvailable,
    }
}

/// The code for a group's refusal.
pub fn member(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Fenced => ErrorCode::FencedInstanceId,
        Refusal::GroupFull => ErrorCode::GroupMaxSizeReached,
        Refusal::InconsistentProtocol => ErrorCode::InconsistentGroupProtocol,
        Refusal::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        Refusal::MemberIdRequired => ErrorCode::MemberIdRequired,
        Refusal::NonEmptyGroup | Refusal::NotEmpty => ErrorCode::NonEmptyGroup,
        // Kafka answers so while it cannot write to the offsets topic; clients try again.
        Refusal::NoSpace | Refusal::OutOfMemory | Refusal::Full => ErrorCode::CoordinatorNotAvailable,
        Refusal::Rebalancing => ErrorCode::RebalanceInProgress,
        Refusal::StaleGeneration => ErrorCode::IllegalGeneration,
        Refusal::Gone | Refusal::UnknownGroup => ErrorCode::GroupIdNotFound,
        Refusal::UnknownMember => ErrorCode::UnknownMemberId,
        Refusal::StorageLimit => ErrorCode::PolicyViolation,
        Refusal::TooLarge => ErrorCode::OffsetMetadataTooLarge,
        Refusal::InUse | Refusal::OutOfSequence | Refusal::ProducerFenced => ErrorCode::UnknownServerError,
    }
}

/// The code for a batch that a partition refused.
pub fn append(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Gone => ErrorCode::UnknownTopicOrPartition,
        Refusal::NoSpace | Refusal::OutOfMemory | Refusal::Full => ErrorCode::KafkaStorageError,
        Refusal::OutOfSequence => ErrorCode::OutOfOrderSequenceNumber,
        Refusal::TooLarge => ErrorCode::MessageTooLarge,
        Refusal::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        other => member(other),
    }
}

/// The code for stored records that cannot be read.
pub fn read(error: &ReadError) -> ErrorCode {
    match error {
        ReadError::Gone => ErrorCode::UnknownTopicOrPartition,
        ReadError::Io(_) => ErrorCode::KafkaStorageError,
    }
}

/// The code for records that a producer may not send.
pub fn records(error: &RecordsError) -> ErrorCode {
    match error {
        RecordsError::BatchSize { .. } | RecordsError::Checksum { .. } | RecordsError::Compressed { .. } => {
            ErrorCode::CorruptMessage
        }
        RecordsError::UnknownCompression(_) | RecordsError::ZstdTooEarly => {
            ErrorCode::UnsupportedCompressionType
        }
        RecordsError::BatchTooLarge { .. } | RecordsError::DecompressedTooLarge { .. } => {
            ErrorCode::MessageTooLarge
        }
        RecordsError::LogAppendTime => ErrorCode::InvalidTimestamp,
        RecordsError::Magic(_)
        | RecordsError::Count { .. }
        | RecordsError::NoBatch
        | RecordsError::TooManyBatches { .. }
        | RecordsError::ControlBatch
        | RecordsError::DeleteHorizon
        | RecordsError::ProducerState { .. }
        | RecordsError::Record(_)
        | RecordsError::OffsetDelta { .. }
        | RecordsError::TrailingBytes(_) => ErrorCode::InvalidRecord,
    }
}

fn denied(resource: Resource) -> ErrorCode {
    match resource {
        Resource::Group => ErrorCode::GroupAuthorizationFailed,
        Resource::Topic | Resource::Subject | Resource::Queue | Resource::Exchange => {
            ErrorCode::TopicAuthorizationFailed
        }
        Resource::Namespace | Resource::Broker => ErrorCode::ClusterAuthorizationFailed,
    }
}
