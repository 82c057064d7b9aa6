//! The MQTT conversation as a state machine, without socket, broker or clock.
