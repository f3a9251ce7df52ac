//! What is rendered: messages, tools and options, out of JSON from outside. Every fault is named with
//! its path, such as `messages[2].content`.

use crate::base::error::Result;
use crate::base::limits;
use crate::loading::json::{Entries, clip};
use serde_json::{Map, Value};

/// A conversation and how to render it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// Objects with a role; what else they hold is for the template.
    pub messages: Vec<Value>,
    /// Tools that the model may call, as objects of JSON schema.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from.
    pub documents: Option<Vec<Value>>,
    /// Opens the assistant's turn; `None`: the caller's default.
    pub add_generation_prompt: Option<bool>,
    /// The prompt ends where the last message's text ends, for the model to go on with it.
    pub continue_final_message: bool,
    /// The name of one of several templates; `None`: `tool_use` where there are tools and it exists, else
    /// `default`.
    pub template: Option<String>,
    /// Further variables for the template.
    pub args: Map<String, Value>,
    /// The time that a template is told, in seconds since 1970 UTC; `None`: now.
    pub now: Option<u64>,
}

/// The keys of the object, as users are told them.
const KEYS: [&str; 8] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "template_args",
    "chat_template_kwargs",
];

/// Variables that the library sets itself.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

impl Chat {
    /// Reads a JSON array of messages, or an object with `messages` and options. `Argument` naming the
    /// path of what is wrong.
    pub fn parse(json: &str) -> Result<Chat> {
        check_size("messages", json)?;
        let mut chat = Chat::default();
        if json.trim_start().starts_with('{') {
            let object: Entries<Value> = from_json("messages", json)?;
            let named = object.0.iter().any(|(key, _)| key == "messages");
            for (key, value) in object.0 {
                chat.set(&key, value)?;
            }
            crate::ensure!(
                named,
                Argument,
                "messages: expected an object with the key \"messages\", found none"
            );
        } else {
            chat.messages = messages(from_json("messages", json)?)?;
        }
        chat.check()?;
        Ok(chat)
    }

    /// Adds tools that are given apart from the messages: a JSON array.
    pub fn add_tools(&mut self, json: &str) -> Result<()> {
        crate::ensure!(self.tools.is_none(), Argument, "tools: given twice, in the object too");
        check_size("tools", json)?;
        self.tools = objects("tools", from_json("tools", json)?)?;
        Ok(())
    }

    fn set(&mut self, key: &str, value: Value) -> Result<()> {
        match key {
            "messages" => self.messages = messages(value)?,
            "tools" => self.tools = objects(key, value)?,
            "documents" => self.documents = objects(key, value)?,
            "add_generation_prompt" => self.add_generation_prompt = flag(key, &value)?,
            "continue_final_message" => self.continue_final_message = flag(key, &value)?.unwrap_or(false),
            "chat_template" => self.template = text(key, value)?,
            "template_args" | "chat_template_kwargs" => self.set_args(key, value)?,
            other => {
                let (other, nearest) = (clip(other), nearest(other));
                crate::bail!(Argument, "{other:?}: unknown key; the nearest known one is {nearest:?}")
            }
        }
        Ok(())
    }

    /// Both names may stand side by side, but no variable in both.
    fn set_args(&mut self, key: &str, value: Value) -> Result<()> {
        let args = match value {
            Value::Object(args) => args,
            Value::Null => return Ok(()),
            other => crate::bail!(Argument, "{key}: expected an object, found {}", kind(&other)),
        };
        for (name, value) in args {
            let (shown, reserved) = (clip(&name), RESERVED.contains(&name.as_str()));
            crate::ensure!(!reserved, Argument, "{key}.{shown}: expected beside {key}, not in it");
            let twice = self.args.insert(name, value).is_some();
            crate::ensure!(!twice, Argument, "{key}.{shown}: given twice");
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let both = self.continue_final_message && self.add_generation_prompt == Some(true);
        crate::ensure!(
            !both,
            Argument,
            "continue_final_message: expected without add_generation_prompt, which begins another message"
        );
        Ok(())
    }
}

fn from_json<T: serde::de::DeserializeOwned>(what: &str, json: &str) -> Result<T> {
    serde_json::from_str(json)
        .map_err(|cause| crate::error!(Argument, "{what}: not the expected JSON: {cause}"))
}

/// Before it is read: as values JSON takes many times its text, in the worst case thirty times.
fn check_size(what: &str, json: &str) -> Result<()> {
    let (bytes, most) = (json.len(), limits::CHAT_BYTES_MAX);
    crate::ensure!(bytes <= most, Argument, "{what}: {bytes} bytes, expected at most {most}");
    let (mut values, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    let most = limits::CHAT_VALUES_MAX;
    crate::ensure!(values <= most, Argument, "{what}: {values} values, expected at most {most}");
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn flag(path: &str, value: &Value) -> Result<Option<bool>> {
    match value {
        Value::Bool(flag) => Ok(Some(*flag)),
        Value::Null => Ok(None),
        other => crate::bail!(Argument, "{path}: expected true or false, found {}", kind(other)),
    }
}

fn text(path: &str, value: Value) -> Result<Option<String>> {
    match value {
        Value::String(text) => Ok(Some(text)),
        Value::Null => Ok(None),
        other => crate::bail!(Argument, "{path}: expected a string, found {}", kind(&other)),
    }
}

/// A list of objects, or nothing.
fn objects(path: &str, value: Value) -> Result<Option<Vec<Value>>> {
    let list = match value {
        Value::Array(list) => list,
        Value::Null => return Ok(None),
        other => crate::bail!(Argument, "{path}: expected an array of objects, found {}", kind(&other)),
    };
    for (at, item) in list.iter().enumerate() {
        let found = kind(item);
        crate::ensure!(item.is_object(), Argument, "{path}[{at}]: expected an object, found {found}");
    }
    Ok(Some(list))
}

fn messages(value: Value) -> Result<Vec<Value>> {
    let found = kind(&value);
    let Value::Array(list) = value else {
        crate::bail!(Argument, "messages: expected an array of messages, found {found}")
    };
    for (at, message) in list.iter().enumerate() {
        check_message(&format!("messages[{at}]"), message)?;
    }
    Ok(list)
}

fn check_message(path: &str, message: &Value) -> Result<()> {
    let found = kind(message);
    let Value::Object(fields) = message else {
        crate::bail!(Argument, "{path}: expected an object with a role, found {found}")
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => crate::bail!(Argument, "{path}.role: expected a string, found {}", kind(other)),
        None => crate::bail!(Argument, "{path}: expected an object with a role, found none"),
    };
    match fields.get("content") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(parts)) => check_parts(&format!("{path}.content"), parts)?,
        // What a tool gave back may be data: templates write it as JSON.
        Some(Value::Object(_)) if role == "tool" => {}
        Some(other) => {
            let found = kind(other);
            crate::bail!(Argument, "{path}.content: expected a string or an array of parts, found {found}")
        }
    }
    match fields.get("tool_calls") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(calls)) => check_calls(&format!("{path}.tool_calls"), calls),
        Some(other) => {
            crate::bail!(Argument, "{path}.tool_calls: expected an array of calls, found {}", kind(other))
        }
    }
}

fn check_parts(path: &str, parts: &[Value]) -> Result<()> {
    for (at, part) in parts.iter().enumerate() {
        let found = kind(part);
        crate::ensure!(part.is_object(), Argument, "{path}[{at}]: expected an object, found {found}");
        for key in ["type", "text"] {
            match part.get(key) {
                None | Some(Value::String(_)) => {}
                Some(other) => {
                    crate::bail!(Argument, "{path}[{at}].{key}: expected a string, found {}", kind(other))
                }
            }
        }
    }
    Ok(())
}

/// Calls as OpenAI has them, or flat ones, which some templates take.
fn check_calls(path: &str, calls: &[Value]) -> Result<()> {
    for (at, call) in calls.iter().enumerate() {
        let found = kind(call);
        crate::ensure!(call.is_object(), Argument, "{path}[{at}]: expected an object, found {found}");
        let (path, function) = match call.get("function") {
            None => (format!("{path}[{at}]"), call),
            Some(function) => (format!("{path}[{at}].function"), function),
        };
        let found = kind(function);
        crate::ensure!(function.is_object(), Argument, "{path}: expected an object, found {found}");
        match function.get("name") {
            Some(Value::String(_)) => {}
            Some(other) => crate::bail!(Argument, "{path}.name: expected a string, found {}", kind(other)),
            None => crate::bail!(Argument, "{path}: expected a name, found none"),
        }
        match function.get("arguments") {
            None | Some(Value::Null | Value::Object(_) | Value::String(_)) => {}
            Some(other) => crate::bail!(
                Argument,
                "{path}.arguments: expected an object or a string, found {}",
                kind(other)
            ),
        }
    }
    Ok(())
}

/// The known key that begins alike, else the one that takes the fewest changes of a letter.
fn nearest(key: &str) -> &'static str {
    let short: String = key.chars().take(64).collect();
    let start: String = key.chars().take(3).collect();
    let far = |known: &&str| (!known.starts_with(&start), distance(&short, known));
    KEYS.iter().copied().min_by_key(far).unwrap_or(KEYS[0])
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, a) in left.chars().enumerate() {
        let mut diagonal = at;
        let mut before = at + 1;
        for (slot, b) in row.iter_mut().skip(1).zip(right.chars()) {
            let here = (diagonal + usize::from(a != b)).min(before + 1).min(*slot + 1);
            diagonal = std::mem::replace(slot, here);
            before = here;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn an_array_or_an_object() {
        let array = Chat::parse(r#" [{"role":"user","content":"x"}]"#).unwrap();
        let object = Chat::parse(r#" {"messages":[{"role":"user","content":"x"}]}"#).unwrap();
        assert_eq!(array, object);
        let chat = Chat::parse(
            r#"{"tools":[{"a":1}],"documents":[{}],"messages":[],"add_generation_prompt":false,
                "continue_final_message":null,"chat_template":"rag","template_args":{"a":1},
                "chat_template_kwargs":{"b":[2]}}"#,
        )
        .unwrap();
        assert_eq!(chat.tools.unwrap().len() + chat.documents.unwrap().len(), 2);
        assert_eq!((chat.add_generation_prompt, chat.template.as_deref()), (Some(false), Some("rag")));
        assert_eq!(Value::Object(chat.args).to_string(), r#"{"a":1,"b":[2]}"#);
    }

    #[test]
    fn each_fault_is_named_with_its_path() {
        for (json, message) in [
            ("", "messages: not the expected JSON: EOF"),
            ("7", "messages: expected an array of messages, found a number"),
            (r#"{"messages":{}}"#, "messages: expected an array of messages, found an object"),
            (r#"{"tools":[]}"#, "messages: expected an object with the key \"messages\", found none"),
            (
                r#"{"messages":[],"messages":[]}"#,
                "messages: not the expected JSON: the key \"messages\" stands twice",
            ),
            (r#"["x"]"#, "messages[0]: expected an object with a role, found a string"),
            (
                r#"[{"role":"user"},{"content":"x"}]"#,
                "messages[1]: expected an object with a role, found none",
            ),
            (r#"[{"role":7}]"#, "messages[0].role: expected a string, found a number"),
            (
                r#"[{"role":"u"},{"role":"u"},{"role":"u","content":1.5}]"#,
                "messages[2].content: expected a string or an array of parts, found a number",
            ),
            (
                r#"[{"role":"u","content":{}}]"#,
                "messages[0].content: expected a string or an array of parts, found an object",
            ),
            (
                r#"[{"role":"u","content":[{},"x"]}]"#,
                "messages[0].content[1]: expected an object, found a string",
            ),
            (
                r#"[{"role":"u","content":[{"type":"text","text":null}]}]"#,
                "messages[0].content[0].text: expected a string, found null",
            ),
            (
                r#"[{"role":"a","tool_calls":{}}]"#,
                "messages[0].tool_calls: expected an array of calls, found an object",
            ),
            (
                r#"[{"role":"a","tool_calls":[{"function":{"name":"f"}},{"function":{}}]}]"#,
                "messages[0].tool_calls[1].function: expected a name, found none",
            ),
            (
                r#"[{"role":"a","tool_calls":[{"name":"f","arguments":[]}]}]"#,
                "messages[0].tool_calls[0].arguments: expected an object or a string, found an array",
            ),
            (r#"{"messages":[],"tools":7}"#, "tools: expected an array of objects, found a number"),
            (r#"{"messages":[],"tools":[{},[]]}"#, "tools[1]: expected an object, found an array"),
            (r#"{"messages":[],"documents":["d"]}"#, "documents[0]: expected an object, found a string"),
            (r#"{"messages":[],"docs":[]}"#, "\"docs\": unknown key; the nearest known one is \"documents\""),
            (r#"{"messages":[],"tool":[]}"#, "\"tool\": unknown key; the nearest known one is \"tools\""),
            (
                r#"{"messages":[],"add_generation_promt":true}"#,
                "\"add_generation_promt\": unknown key; the nearest known one is \"add_generation_prompt\"",
            ),
            (
                r#"{"messages":[],"add_generation_prompt":"yes"}"#,
                "add_generation_prompt: expected true or false, found a string",
            ),
            (r#"{"messages":[],"chat_template":1}"#, "chat_template: expected a string, found a number"),
            (r#"{"messages":[],"template_args":[]}"#, "template_args: expected an object, found an array"),
            (
                r#"{"messages":[],"template_args":{"tools":[]}}"#,
                "template_args.tools: expected beside template_args, not in it",
            ),
            (
                r#"{"messages":[],"template_args":{"x":1},"chat_template_kwargs":{"x":2}}"#,
                "chat_template_kwargs.x: given twice",
            ),
            (
                r#"{"messages":[],"continue_final_message":true,"add_generation_prompt":true}"#,
                "continue_final_message: expected without add_generation_prompt, which begins another message",
            ),
        ] {
            let error = Chat::parse(json).unwrap_err();
            assert_eq!(error.status, Status::Argument, "{json}");
            assert!(error.message.starts_with(message), "{json}: {error}");
        }
        let mut chat = Chat::parse(r#"{"messages":[],"tools":[]}"#).unwrap();
        assert_eq!(chat.add_tools("[]").unwrap_err().message, "tools: given twice, in the object too");
    }

    #[test]
    fn data_of_a_tool_and_missing_contents_pass() {
        let json = r#"[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},
                       {"role":"tool","content":{"a":1}},{"role":"assistant"}]"#;
        assert_eq!(Chat::parse(json).unwrap().messages.len(), 3);
    }

    #[test]
    fn many_small_values_are_refused_before_they_take_memory() {
        let many = format!("[{}]", "[],".repeat(limits::CHAT_VALUES_MAX));
        let error = Chat::parse(&many).unwrap_err();
        assert!(error.message.contains("values, expected at most"), "{error}");
        // Signs in a text are no values.
        let text = format!(r#"[{{"role":"user","content":"\"{}"}}]"#, "[{,".repeat(limits::CHAT_VALUES_MAX));
        assert!(Chat::parse(&text).is_ok());
    }
}
