//! Reading one JSON object key by key, so that every error can say where and what.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Error;

/// What is printed instead of a value that may be a secret.
pub(super) const HIDDEN: &str = "(not shown)";

/// Keys whose values are secrets.
const SECRETS: [&str; 1] = ["data"];

/// One object of a configuration.
pub(super) struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

/// Parses a text that must be an object.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, Error> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::Syntax(format!("{} is not an object", kind(&other)))),
        Err(error) => Err(Error::Syntax(error.to_string())),
    }
}

impl<'a> Object<'a> {
    /// The object at `path` ("" for the outermost), which may have only these keys.
    pub(super) fn new(
        path: &str,
        map: &'a Map<String, Value>,
        keys: &[&'static str],
    ) -> Result<Object<'a>, Error> {
        let object = Object { path: path.to_owned(), map };
        for key in map.keys() {
            if !keys.contains(&key.as_str()) {
                return Err(Error::UnknownKey(object.path_of(key), nearest(key, keys)));
            }
        }
        Ok(object)
    }

    /// The object that stands at `path`, which may have only these keys.
    #[cfg(feature = "cli")]
    pub(super) fn of_value(
        path: &str,
        value: &'a Value,
        keys: &[&'static str],
    ) -> Result<Object<'a>, Error> {
        match value {
            Value::Object(map) => Object::new(path, map, keys),
            other => Err(Error::Value {
                path: path.to_owned(),
                value: printed(other),
                problem: "an object is expected",
            }),
        }
    }

    /// The object at `path`, whose keys are names that its reader checks.
    #[cfg(feature = "cli")]
    pub(super) fn of_names(path: &str, map: &'a Map<String, Value>) -> Object<'a> {
        Object { path: path.to_owned(), map }
    }

    /// The items of a list, each with its place; none where it is missing.
    #[cfg(feature = "cli")]
    pub(super) fn list(&self, key: &str) -> Result<Vec<(String, &'a Value)>, Error> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let place = |(at, item)| (format!("{}[{at}]", self.path_of(key)), item);
                Ok(items.iter().enumerate().map(place).collect())
            }
            Some(_) => Err(self.error(key, "a list is expected")),
        }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn error(&self, key: &str, problem: &'static str) -> Error {
        let value = match self.map.get(key) {
            None => "nothing".to_owned(),
            Some(_) if SECRETS.contains(&key) => HIDDEN.to_owned(),
            Some(value) => printed(value),
        };
        Error::Value { path: self.path_of(key), value, problem }
    }

    pub(super) fn unsupported(&self, key: &str, feature: &'static str) -> Error {
        Error::Unsupported { path: self.path_of(key), feature }
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| self.error(key, "a string is expected")))
            .transpose()
    }

    pub(super) fn required_string(&self, key: &str) -> Result<&'a str, Error> {
        self.string(key)?.ok_or_else(|| Error::Missing(self.path_of(key)))
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.error(key, "true or false is expected"))
            }
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        self.get(key)
            .map(|v| v.as_u64().ok_or_else(|| self.error(key, "a whole number is expected")))
            .transpose()
    }

    pub(super) fn duration(&self, key: &str, default: Duration) -> Result<Duration, Error> {
        const PROBLEM: &str = "a duration like \"10s\" or \"1h 30m\" is expected";
        match self.get(key) {
            None => Ok(default),
            Some(Value::String(text)) => duration(text).ok_or_else(|| self.error(key, PROBLEM)),
            Some(_) => Err(self.error(key, PROBLEM)),
        }
    }

    /// A duration that is not zero.
    pub(super) fn positive(&self, key: &str, default: Duration) -> Result<Duration, Error> {
        match self.duration(key, default)? {
            Duration::ZERO => Err(self.error(key, "more than zero is expected")),
            time => Ok(time),
        }
    }

    pub(super) fn object(
        &self,
        key: &str,
        keys: &[&'static str],
    ) -> Result<Option<Object<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Object::new(&self.path_of(key), map, keys).map(Some),
            Some(_) => Err(self.error(key, "an object is expected")),
        }
    }

    /// An object that may have any keys: the published implementation accepts and ignores it.
    pub(super) fn ignored_object(&self, key: &str) -> Result<(), Error> {
        match self.get(key) {
            None | Some(Value::Object(_)) => Ok(()),
            Some(_) => Err(self.error(key, "an object is expected")),
        }
    }

    pub(super) fn strings(&self, key: &str) -> Result<Vec<(String, String)>, Error> {
        const PROBLEM: &str = "an object of strings is expected";
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let map = value.as_object().ok_or_else(|| self.error(key, PROBLEM))?;
        let pair = |(name, value): (&String, &Value)| {
            let value = value.as_str().ok_or_else(|| self.error(key, PROBLEM))?;
            Ok((name.clone(), value.to_owned()))
        };
        map.iter().map(pair).collect()
    }
}

/// A value as errors show it. Objects and lists are not shown: a secret may be in them.
fn printed(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        single => single.to_string(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// One or more numbers with units, summed (spec 01 section 4).
pub(super) fn duration(text: &str) -> Option<Duration> {
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (mut rest, mut total) = (text.as_str(), Duration::ZERO);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let nanos: u64 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            "y" => 31_556_926_000_000_000,
            _ => return None,
        };
        let nanos = number.parse::<u64>().ok()?.checked_mul(nanos)?;
        total = total.checked_add(Duration::from_nanos(nanos))?;
        rest = next;
    }
    Some(total)
}

/// The known key that is most like `key`, if one is.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let best = known.iter().map(|candidate| (distance(key, candidate), *candidate)).min()?;
    (best.0 <= key.len().max(best.1.len()).div_ceil(2)).then_some(best.1)
}

/// Edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec01_25_durations() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("1h 30m", 5_400_000),
            (" 1 s 5ms ", 1_005),
            ("1d", 86_400_000),
            ("1y", 31_556_926_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for (text, nanos) in [("1ns", 1), ("2us", 2_000), ("3ms", 3_000_000)] {
            assert_eq!(duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for (text, secs) in [("1m", 60), ("1w", 604_800), ("1y1w1d1h1m1s", 32_251_787)] {
            assert_eq!(duration(text), Some(Duration::from_secs(secs)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "1x",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "999999999y",
            "1M",
            "1W",
            "1 min",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_key_is_named() {
        assert_eq!(nearest("endpont", &["endpoint", "tls"]), Some("endpoint"));
        assert_eq!(nearest("zzz", &["endpoint", "tls"]), None);
    }
}
