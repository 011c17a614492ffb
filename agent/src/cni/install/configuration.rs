//! A network configuration with the plugin in it, and without: text in, text out.

use serde_json::{Map, Value};

use super::super::PLUGIN;

/// Versions of the specification in which plugins are chained.
const CHAINED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The name of a network that has none; libcni demands one of a list.
const NAMELESS: &str = "k8s-pod-network";

/// Why a text is no network configuration that a plugin can be chained to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No JSON.
    #[error("it is no JSON object")]
    Json(#[source] serde_json::Error),
    /// A list without plugins.
    #[error("it lists no plugins")]
    NoPlugins,
    /// Something in the list is no plugin.
    #[error("plugin {0} has no `type`")]
    NoType(usize),
    /// A version without chains.
    #[error("its cniVersion is `{0}`; plugins are chained from 0.3.0 to 1.1.0")]
    Version(String),
}

/// A network configuration, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Configuration {
    list: Map<String, Value>,
}

impl Configuration {
    /// Reads a list of plugins, or a single plugin as the list that a runtime makes of it.
    pub(super) fn parse(text: &str) -> Result<Self, Malformed> {
        let mut object: Map<String, Value> = serde_json::from_str(text).map_err(Malformed::Json)?;
        if object.contains_key("type") {
            let name = object.remove("name").unwrap_or_else(|| NAMELESS.into());
            let version = object.remove("cniVersion");
            let mut list = Map::new();
            list.extend(version.map(|version| ("cniVersion".to_owned(), version)));
            list.insert("name".into(), name);
            list.insert("plugins".into(), vec![Value::Object(object)].into());
            object = list;
        }
        let configuration = Self { list: object };
        let plugins = configuration.plugins();
        if plugins.is_empty() {
            return Err(Malformed::NoPlugins);
        }
        if let Some(at) = plugins.iter().position(|plugin| kind(plugin).is_none()) {
            return Err(Malformed::NoType(at));
        }
        Ok(configuration)
    }

    /// The same with the plugin in it, as `entry` has it: where it stands already, else last. None
    /// if nothing changes.
    pub(super) fn with(&self, entry: &Value) -> Result<Option<Self>, Malformed> {
        let version = self.list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
        if !CHAINED.contains(&version) {
            return Err(Malformed::Version(version.to_owned()));
        }
        let mut plugins: Vec<Value> = self.plugins().to_vec();
        let places: Vec<usize> = places(&plugins).collect();
        match places.first() {
            Some(&first) => {
                plugins[first] = entry.clone();
                for again in places[1..].iter().rev() {
                    plugins.remove(*again);
                }
            }
            None => plugins.push(entry.clone()),
        }
        Ok(self.replaced(plugins))
    }

    /// The same without the plugin. None if it is not there.
    pub(super) fn without(&self) -> Option<Self> {
        let mut plugins = self.plugins().to_vec();
        plugins.retain(|plugin| kind(plugin) != Some(PLUGIN));
        self.replaced(plugins)
    }

    /// As it goes to a file.
    pub(super) fn text(&self) -> String {
        // A map of strings and values that came out of JSON goes into JSON.
        format!("{:#}\n", Value::Object(self.list.clone()))
    }

    fn replaced(&self, plugins: Vec<Value>) -> Option<Self> {
        if plugins == self.plugins() {
            return None;
        }
        let mut list = self.list.clone();
        list.insert("plugins".into(), plugins.into());
        Some(Self { list })
    }

    fn plugins(&self) -> &[Value] {
        self.list.get("plugins").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

fn places(plugins: &[Value]) -> impl Iterator<Item = usize> {
    let ours = |(at, plugin)| (kind(plugin) == Some(PLUGIN)).then_some(at);
    plugins.iter().enumerate().filter_map(ours)
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry() -> Value {
        json!({ "type": PLUGIN, "socket": "/run/culvert/cni.sock" })
    }

    fn types(configuration: &Configuration) -> Vec<&str> {
        configuration.plugins().iter().filter_map(kind).collect()
    }

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","disableCheck":true,
        "plugins":[{"type":"bridge","mtu":1450},{"type":"portmap"}]}"#;

    #[test]
    fn plugin_goes_last_and_comes_out_again() {
        let before = Configuration::parse(LIST).unwrap();
        let with = before.with(&entry()).unwrap().unwrap();
        assert_eq!(types(&with), ["bridge", "portmap", PLUGIN]);
        assert_eq!(with.list["disableCheck"], true);
        assert_eq!(Configuration::parse(&with.text()).unwrap(), with);
        assert!(with.with(&entry()).unwrap().is_none(), "it is there");
        assert_eq!(with.without().unwrap(), before);
        assert!(before.without().is_none(), "it is not there");
    }

    #[test]
    fn plugin_stays_where_others_stand_behind_it_and_is_there_once() {
        let text = r#"{"cniVersion":"0.4.0","name":"pods","plugins":[
            {"type":"bridge"},{"type":"culvert-cni","socket":"/old"},{"type":"istio-cni"},
            {"type":"culvert-cni"}]}"#;
        let with = Configuration::parse(text).unwrap().with(&entry()).unwrap().unwrap();
        assert_eq!(types(&with), ["bridge", PLUGIN, "istio-cni"]);
        assert_eq!(with.plugins()[1], entry());
    }

    #[test]
    fn single_plugin_becomes_a_list() {
        let text = r#"{"cniVersion":"0.3.1","type":"ptp","ipam":{"type":"host-local"}}"#;
        let with = Configuration::parse(text).unwrap().with(&entry()).unwrap().unwrap();
        assert_eq!(types(&with), ["ptp", PLUGIN]);
        assert_eq!(with.list["name"], NAMELESS);
        assert_eq!(with.list["cniVersion"], "0.3.1");
        assert_eq!(with.plugins()[0], json!({ "type": "ptp", "ipam": { "type": "host-local" } }));
    }

    #[test]
    fn what_no_plugin_can_be_chained_to_is_refused() {
        let parse = |text| Configuration::parse(text).unwrap_err().to_string();
        assert_eq!(parse("["), "it is no JSON object");
        assert_eq!(parse(r#"{"name":"pods"}"#), "it lists no plugins");
        assert_eq!(parse(r#"{"plugins":[{"type":"a"},{}]}"#), "plugin 1 has no `type`");
        for version in ["", r#""cniVersion":"0.2.0","#, r#""cniVersion":"2.0.0","#] {
            let text = format!(r#"{{{version}"name":"pods","plugins":[{{"type":"bridge"}}]}}"#);
            let old = Configuration::parse(&text).unwrap();
            assert!(matches!(old.with(&entry()), Err(Malformed::Version(_))), "{text}");
        }
    }
}
