//! How a node behaves: the object that a program gives to a new node.

use std::time::Duration;

use super::object::{parse, Object};
use super::Error;
use crate::limits;
use crate::router::Gateway;

const KEYS: [&str; 7] = [
    "node_id",
    "domain_name",
    "default_gateway",
    "stuck_receiver_timeout",
    "controller",
    "peers",
    "enforce_pqc",
];

/// How a node behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name of the node; `None`: `node-` and a random UUID.
    pub node_id: Option<String>,
    /// Its deployment. Default "".
    pub domain_name: String,
    /// Where local apps' messages to unknown names go: `auto` (default) or `off`.
    pub gateway: Gateway,
    /// A link that takes nothing for this long, while data waits for it, is stuck: one to an app is
    /// cut; to one between nodes nothing is forwarded until it moves again. Ours alone. Default
    /// [`limits::STUCK_RECEIVER_TIMEOUT`].
    pub stuck_receiver_timeout: Duration,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            node_id: None,
            domain_name: String::new(),
            gateway: Gateway::Auto,
            stuck_receiver_timeout: limits::STUCK_RECEIVER_TIMEOUT,
        }
    }
}

impl NodeConfig {
    /// Reads a JSON object.
    pub fn from_json(text: &str) -> Result<NodeConfig, Error> {
        let map = parse(text)?;
        let object = Object::new("", &map, &KEYS)?;
        for (key, feature) in
            [("controller", "the control plane"), ("peers", "peers"), ("enforce_pqc", "PQC")]
        {
            if object.get(key).is_some_and(|value| value.as_bool() != Some(false)) {
                return Err(object.unsupported(key, feature));
            }
        }
        NodeConfig::read(&object)
    }

    /// Reads what a node's own object and a service of a file have in common.
    pub(super) fn read(object: &Object<'_>) -> Result<NodeConfig, Error> {
        Ok(NodeConfig {
            node_id: object.string("node_id")?.map(str::to_owned),
            domain_name: object.string("domain_name")?.unwrap_or("").to_owned(),
            gateway: match object.string("default_gateway")? {
                None | Some("auto") => Gateway::Auto,
                Some("off") => Gateway::Off,
                Some(_) => return Err(object.error("default_gateway", "auto or off is expected")),
            },
            stuck_receiver_timeout: object
                .positive("stuck_receiver_timeout", limits::STUCK_RECEIVER_TIMEOUT)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_node() {
        assert_eq!(NodeConfig::from_json("{}").unwrap(), NodeConfig::default());
        let config = NodeConfig::from_json(r#"{"node_id": "n", "default_gateway": "off"}"#);
        let config = config.unwrap();
        assert_eq!((config.node_id.as_deref(), config.gateway), (Some("n"), Gateway::Off));
        let config = NodeConfig::from_json(r#"{"stuck_receiver_timeout": "2s"}"#).unwrap();
        assert_eq!(config.stuck_receiver_timeout, Duration::from_secs(2));
        for (text, part) in [
            (r#"{"node_idd": ""}"#, "did you mean \"node_id\""),
            (r#"{"controller": {}}"#, "control plane"),
            (r#"{"default_gateway": "on"}"#, "\"on\""),
            (r#"{"node_id": 5}"#, "node_id"),
            (r#"{"stuck_receiver_timeout": "0s"}"#, "stuck_receiver_timeout"),
        ] {
            let error = NodeConfig::from_json(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
