//! Odd requests, and the expected outcome of each.

use serde::Deserialize;
use serde_json::{Value, json};

/// A request and its expected outcome.
pub(crate) struct Odd {
    pub(crate) what: String,
    pub(crate) body: Vec<u8>,
    pub(crate) outcome: Outcome,
}

/// The expected outcome of a request.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// It is rejected with this status and code, and reaches no backend.
    Refused(u16, i64),
    /// It reaches the backend, and every parser reads this there.
    Passed(Read),
    /// It reaches the backend, but some parsers cannot read it at all.
    PassedToSome(Read),
}

/// The parts of a request that decide which tool, prompt or resource is used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Read {
    #[serde(default)]
    pub(crate) method: Value,
    #[serde(default)]
    pub(crate) name: Value,
    #[serde(default)]
    pub(crate) uri: Value,
    #[serde(default)]
    pub(crate) id: Value,
    #[serde(default)]
    pub(crate) error: Option<String>,
}

const REFUSED: Outcome = Outcome::Refused(400, -32600);
const NO_JSON: Outcome = Outcome::Refused(400, -32700);
const UNFIT: Outcome = Outcome::Refused(200, -32602);
const NO_RESOURCE: Outcome = Outcome::Refused(200, -32002);

/// Keys that some parser confuses with another key.
fn lookalikes(key: &str) -> Vec<String> {
    let mut capital = key.to_owned();
    let first = key.find(|letter: char| letter.is_ascii_alphabetic()).unwrap();
    capital[first..=first].make_ascii_uppercase();
    let escaped = format!(
        "{}\\u{:04x}{}",
        &key[..first],
        u32::from(key.as_bytes()[first].to_ascii_uppercase()),
        &key[first + 1..]
    );
    let mut all = vec![
        capital,
        escaped,
        key.to_uppercase(),
        format!("{key}_"),
        format!("{key}\\u0000"),
        format!("{key}\\u0000x"),
    ];
    if key.contains('s') {
        all.push(key.replacen('s', "ſ", 1));
        all.push(key.replacen('s', "\\u017F", 1));
    }
    if key.contains('k') {
        all.push(key.replacen('k', "\u{212a}", 1));
        all.push(key.replacen('k', "\\u212a", 1));
    }
    if key.contains('i') {
        all.push(key.replacen('i', "ı", 1));
    }
    all.retain(|other| other != key);
    all
}

/// The same key again.
fn doubles(key: &str) -> [String; 2] {
    let rest = &key[1..];
    [key.to_owned(), format!("\\u{:04x}{rest}", key.as_bytes()[0])]
}

/// A corpus of requests for a gateway that puts `prefix` before names.
pub(crate) struct Corpus {
    prefix: &'static str,
    pub(crate) odd: Vec<Odd>,
}

impl Corpus {
    pub(crate) fn new(prefix: &'static str) -> Self {
        let mut corpus = Self {
            prefix,
            odd: Vec::new(),
        };
        corpus.keys();
        corpus.json();
        corpus.ids();
        corpus.names();
        corpus.harmless();
        corpus
    }

    fn add(&mut self, what: impl Into<String>, body: impl Into<Vec<u8>>, outcome: Outcome) {
        self.odd.push(Odd {
            what: what.into(),
            body: body.into(),
            outcome,
        });
    }

    /// A message with these fields beside the version.
    fn message(&mut self, what: impl Into<String>, fields: &str, outcome: Outcome) {
        let body = format!(r#"{{"jsonrpc":"2.0",{fields}}}"#);
        self.add(what, body, outcome);
    }

    /// A call of a tool with these parameters.
    fn call(&mut self, what: impl Into<String>, params: &str, outcome: Outcome) {
        let fields = format!(
            r#""id":"{}","method":"tools/call","params":{{{params}}}"#,
            self.odd.len()
        );
        self.message(what, &fields, outcome);
    }

    fn request(&mut self, what: impl Into<String>, method: &str, params: &str, outcome: Outcome) {
        let fields = format!(
            r#""id":"{}","method":"{method}","params":{{{params}}}"#,
            self.odd.len()
        );
        self.message(what, &fields, outcome);
    }

    fn allowed(&self) -> String {
        format!("{}allowed", self.prefix)
    }

    /// What is read of a call of the allowed tool that is added next.
    fn call_of_allowed(&self) -> Read {
        Read {
            method: json!("tools/call"),
            name: json!("allowed"),
            id: json!(self.odd.len().to_string()),
            ..Read::default()
        }
    }

    fn passes(&self) -> Outcome {
        Outcome::Passed(self.call_of_allowed())
    }

    /// Every key that the gateway reads, beside a key that can be confused with it.
    fn keys(&mut self) {
        let name = self.allowed();
        let drop = format!("{}drop_database", self.prefix);
        let denied = format!(r#"{{"name":"{drop}"}}"#);
        let call = format!(r#""id":1,"method":"tools/call","params":{{"name":"{name}"}}"#);
        for (key, value) in [
            ("method", r#""tools/call""#),
            ("params", &*denied),
            ("id", "2"),
            ("jsonrpc", r#""2.0""#),
            ("result", "{}"),
            ("error", "{}"),
        ] {
            let same = (call.contains(&format!("\"{key}\"")) || key == "jsonrpc").then(|| doubles(key));
            for other in lookalikes(key).into_iter().chain(same.into_iter().flatten()) {
                let more = format!(r#""{other}":{value}"#);
                self.message(
                    format!("{other} behind {key}"),
                    &format!("{call},{more}"),
                    REFUSED,
                );
                self.message(
                    format!("{other} before {key}"),
                    &format!("{more},{call}"),
                    REFUSED,
                );
            }
        }
        let hidden = format!(r#""Method":"tools/call","Params":{denied}"#);
        for (what, fields) in [
            ("an answer", r#""id":"x","result":{}"#),
            ("an error", r#""id":"x","error":{"code":1,"message":""}"#),
            ("a notification", r#""method":"notifications/roots/list_changed""#),
            (
                "a cancellation",
                r#""method":"notifications/cancelled","params":{"requestId":7}"#,
            ),
            ("a ping", r#""id":1,"method":"ping""#),
        ] {
            self.message(
                format!("{what} that is a call, too"),
                &format!("{fields},{hidden}"),
                REFUSED,
            );
        }
        let good = format!(r#""name":"{name}","arguments":{{}},"_meta":{{"progressToken":1}}"#);
        let task = format!(r#"{good},"task":{{}}"#);
        for (method, good, keys) in [
            ("tools/call", &*good, &["name", "arguments", "_meta"][..]),
            ("tools/call", &*task, &["task"]),
            (
                "prompts/get",
                &good.replace("allowed", "ask"),
                &["name", "arguments", "_meta"],
            ),
            (
                "resources/read",
                r#""uri":"db://main/public","_meta":{}"#,
                &["uri", "_meta"],
            ),
            ("resources/subscribe", r#""uri":"db://main/public""#, &["uri"]),
            ("resources/unsubscribe", r#""uri":"db://main/public""#, &["uri"]),
            ("tools/list", r#""cursor":"""#, &["cursor"]),
            ("logging/setLevel", r#""level":"error""#, &["level"]),
            (
                "completion/complete",
                r#""ref":{"type":"ref/resource","uri":"db://main/{+path}"},"argument":{"name":"path","value":""}"#,
                &["ref", "argument"],
            ),
        ] {
            for key in keys {
                let value = match *key {
                    "name" => &format!("\"{drop}\""),
                    "uri" => r#""db://main/secret""#,
                    "cursor" | "level" => r#""info""#,
                    _ => r#"{"name":"drop_database"}"#,
                };
                for other in lookalikes(key).into_iter().chain(doubles(key)) {
                    let what = format!("{method}: {other} beside {key}");
                    self.request(&*what, method, &format!(r#"{good},"{other}":{value}"#), REFUSED);
                    self.request(what, method, &format!(r#""{other}":{value},{good}"#), REFUSED);
                }
            }
        }
        for other in lookalikes("progressToken")
            .into_iter()
            .chain(doubles("progressToken"))
        {
            let params = format!(r#""name":"{name}","_meta":{{"progressToken":1,"{other}":2}}"#);
            self.call(format!("{other} in _meta"), &params, REFUSED);
        }
        for (key, value) in [
            ("type", r#""ref/prompt""#),
            ("name", r#""leak""#),
            ("uri", r#""db://main/secret""#),
        ] {
            for other in lookalikes(key) {
                let reference =
                    format!(r#""type":"ref/resource","uri":"db://main/{{+path}}","{other}":{value}"#);
                let params = format!(r#""ref":{{{reference}}},"argument":{{"name":"path","value":""}}"#);
                self.request(format!("{other} in ref"), "completion/complete", &params, REFUSED);
            }
        }
        for key in ["requestId"] {
            for other in lookalikes(key).into_iter().chain(doubles(key)) {
                let fields =
                    format!(r#""method":"notifications/cancelled","params":{{"requestId":7,"{other}":8}}"#);
                self.message(format!("{other} in a cancellation"), &fields, REFUSED);
            }
        }
    }

    /// Invalid JSON that some parsers accept.
    fn json(&mut self) {
        let name = self.allowed();
        let good = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{"n":1}}}}}}"#
        );
        let with = |from: &str, to: &str| good.replacen(from, to, 1);
        for (what, body) in [
            ("NaN", with(r#""n":1"#, r#""n":NaN"#)),
            ("Infinity", with(r#""n":1"#, r#""n":-Infinity"#)),
            ("a leading zero", with(r#""n":1"#, r#""n":01"#)),
            ("a plus", with(r#""n":1"#, r#""n":+1"#)),
            ("hexadecimal digits", with(r#""n":1"#, r#""n":0x1"#)),
            ("a bare point", with(r#""n":1"#, r#""n":1."#)),
            ("a comma at the end", with("}}}", "},}}")),
            ("a comment", with(r#""id""#, r#"/* "params":{} */"id""#)),
            ("a comment to the line's end", with(r#""id""#, "// x\n\"id\"")),
            ("a comment in a shell's way", with(r#""id""#, "# x\n\"id\"")),
            ("single quotes", good.replace('"', "'")),
            ("a key without quotes", with(r#""id""#, "id")),
            ("a line end in a string", with(&name, &format!("{name}\n"))),
            ("a NUL in a string", with(&name, &format!("{name}\0"))),
            ("an escape that is none", with(&name, &format!("\\x61{name}"))),
            ("another message behind it", format!("{good}\n{good}")),
            ("a NUL behind it", format!("{good}\0")),
            ("a record separator before it", format!("\u{1e}{good}")),
        ] {
            self.add(what, body, NO_JSON);
        }
        for (what, bytes) in [
            ("no UTF-8", &b"\xff"[..]),
            ("an overlong form", b"\xc1\xa1"),
            ("half of a surrogate pair in UTF-8", b"\xed\xa0\x80"),
            ("half of a character", b"\xc3"),
        ] {
            let body = with("{\"n\":1}", "{\"n\":\"$\"}");
            let (before, behind) = body.split_once('$').unwrap();
            self.add(
                what,
                [before.as_bytes(), bytes, behind.as_bytes()].concat(),
                NO_JSON,
            );
        }
        self.add(
            "UTF-16",
            good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
            NO_JSON,
        );
        let read = Read {
            id: json!(1),
            ..self.call_of_allowed()
        };
        self.add("a batch", format!("[{good}]"), Outcome::Passed(read));
        for (what, body) in [
            ("a batch in a batch", format!("[[{good}]]")),
            (
                "params that are a list",
                with(r#"{"name""#, r#"["name""#).replace(r#""arguments":{"n":1}}"#, "1]"),
            ),
            (
                "params that are a text",
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"{name}"}}"#),
            ),
            (
                "a list for a message",
                r#"["2.0",1,"tools/call",{"name":"drop_database"}]"#.to_owned(),
            ),
            (
                "deep nesting",
                with("{\"n\":1}", &format!("{}1{}", "[".repeat(200), "]".repeat(200))),
            ),
            (
                "a method that is half of a pair",
                with("tools/call", r"tools/call\ud800"),
            ),
        ] {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
            self.add(what, body, if is_json { REFUSED } else { NO_JSON });
        }
    }

    fn ids(&mut self) {
        let name = self.allowed();
        for id in [
            "1.5",
            "null",
            "true",
            "[]",
            "{}",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            r#""vmcp:1""#,
        ] {
            let fields = format!(r#""id":{id},"method":"tools/call","params":{{"name":"{name}"}}"#);
            self.message(format!("the id {id}"), &fields, REFUSED);
        }
        for id in [
            "0",
            "-7",
            "9007199254740993",
            "123456789012345678901234567890",
            r#""""#,
            r#""\u0061\/\ud83d\ude00""#,
            r#""a\u0000b""#,
            r#""é e\u0301""#,
        ] {
            let read = Read {
                id: serde_json::from_str(id).unwrap(),
                ..self.call_of_allowed()
            };
            let fields = format!(r#""id":{id},"method":"tools/call","params":{{"name":"{name}"}}"#);
            self.message(format!("the id {id}"), &fields, Outcome::Passed(read));
        }
    }

    /// Names that some server may confuse with the allowed name or a denied one.
    fn names(&mut self) {
        let name = self.allowed();
        for other in [
            "drop_database",
            "Drop_Database",
            "DROP_DATABASE",
            "secret_tool",
            "SECRET_TOOL",
            r"drop_database\u0000",
            "drop_database ",
            r"drop_data\ufeffbase",
            r"drop_databaſe",
            "ｄrop_database",
        ] {
            for written in [other.to_owned(), format!("{}{other}", self.prefix)] {
                self.call(
                    format!("the tool {written}"),
                    &format!(r#""name":"{written}""#),
                    UNFIT,
                );
            }
        }
        for written in [
            name.to_uppercase(),
            format!(" {name}"),
            format!("{name} "),
            format!("{name}\\u0000"),
            format!("{name}\\n"),
            format!("{name}/../drop_database"),
            format!("{name}\\ud800"),
        ] {
            self.call(
                format!("the tool {written}"),
                &format!(r#""name":"{written}""#),
                UNFIT,
            );
        }
        for written in ["null", "1", "[]", "{}", &format!("[\"{name}\"]")] {
            self.call(
                format!("a name that is {written}"),
                &format!(r#""name":{written}"#),
                UNFIT,
            );
        }
        self.request(
            "a denied prompt",
            "prompts/get",
            &format!(r#""name":"{}leak""#, self.prefix),
            UNFIT,
        );
        let reference = format!(
            r#""ref":{{"type":"ref/prompt","name":"{}leak"}},"argument":{{}}"#,
            self.prefix
        );
        self.request(
            "a completion for a denied prompt",
            "completion/complete",
            &reference,
            UNFIT,
        );
        let reference = r#""ref":{"type":"ref/resource","uri":"db://main/secret"},"argument":{}"#;
        self.request(
            "a completion for a denied resource",
            "completion/complete",
            reference,
            UNFIT,
        );
        for uri in [
            "db://main/secret",
            "db://main/%73ecret",
            "db://main/%2573ecret",
            "DB://Main/secret",
            "db://main/x/../secret",
            "db://main/.//secret",
            "db:\\\\\\\\main\\\\secret",
            "db://user@main/secret",
            "db://main/secret?x",
            "db://main/secret#x",
            "db://main/sec\\tret",
            "\\u0001db://main/secret",
            " db://main/secret ",
            "db://main/secret\\u0000x",
            "db://main/secret%00x",
        ] {
            for method in ["resources/read", "resources/subscribe"] {
                self.request(
                    format!("{method} {uri}"),
                    method,
                    &format!(r#""uri":"{uri}""#),
                    NO_RESOURCE,
                );
            }
        }
    }

    /// Odd but unambiguous requests.
    fn harmless(&mut self) {
        let name = self.allowed();
        for (what, params) in [
            ("nothing odd", format!(r#""name":"{name}","arguments":{{"x":1}}"#)),
            ("a key with escapes", format!(r#""n\u0061me":"{name}""#)),
            (
                "a name with escapes",
                format!(r#""name":"{}""#, name.replace('a', "\\u0061")),
            ),
            (
                "other names in the arguments",
                format!(
                    r#""name":"{name}","arguments":{{"name":"drop_database","Name":"drop_database","x":1,"x":2}}"#
                ),
            ),
            (
                "other names in unknown objects",
                format!(
                    r#""params":{{"name":"drop_database"}},"name":"{name}","x":{{"name":"drop_database"}}"#
                ),
            ),
            (
                "a name in a text",
                format!(r#""x":"\",\"name\":\"drop_database","name":"{name}""#),
            ),
            (
                "a prototype",
                format!(
                    r#""__proto__":{{"name":"drop_database"}},"name":"{name}","constructor":{{"name":"drop_database"}}"#
                ),
            ),
            (
                "unknown keys that stand twice or differ in case",
                format!(r#""x":1,"X":2,"x":3,"name":"{name}""#),
            ),
            (
                "keys that only look alike",
                format!(
                    r#""ｎame":"drop_database","nàme":"drop_database","names":"drop_database","nаme":"drop_database","name":"{name}""#
                ),
            ),
            (
                "the uri of a resource",
                format!(r#""name":"{name}","uri":"db://main/public""#),
            ),
        ] {
            let mut read = self.call_of_allowed();
            if what == "the uri of a resource" {
                read.uri = json!("db://main/public");
            }
            self.call(what, &params, Outcome::Passed(read));
        }
        for (what, value) in [
            ("half of a surrogate pair", r#""\ud800""#),
            ("a number that is too large", "1e400"),
        ] {
            let params = format!(r#""name":"{name}","arguments":{{"x":{value}}}"#);
            let outcome = Outcome::PassedToSome(self.call_of_allowed());
            self.call(what, &params, outcome);
        }
        let spaced = format!(
            "\r\n {{\n\t\"jsonrpc\" : \"2.0\" ,\r\n \"id\":\"{}\",\"method\":\"tools\\/call\",\n\"params\":\n{{ \"name\"\n:\"{name}\" }} }}\n\n",
            self.odd.len()
        );
        self.add("white space", spaced, self.passes());
        let reading = |method: &str, name: Value, uri: Value, id: usize| {
            Outcome::Passed(Read {
                method: json!(method),
                name,
                uri,
                id: json!(id.to_string()),
                error: None,
            })
        };
        for uri in [
            "db://main/public",
            r"db:\/\/main\/public",
            "db://main/other",
            "db://main/a%20b",
        ] {
            let plain = uri.replace('\\', "");
            for method in ["resources/read", "resources/subscribe"] {
                let outcome = reading(method, Value::Null, json!(plain), self.odd.len());
                self.request(
                    format!("{method} {uri}"),
                    method,
                    &format!(r#""uri":"{uri}""#),
                    outcome,
                );
            }
        }
        let outcome = reading("prompts/get", json!("ask"), Value::Null, self.odd.len());
        self.request(
            "a prompt",
            "prompts/get",
            &format!(r#""name":"{}ask""#, self.prefix),
            outcome,
        );
        let outcome = reading("completion/complete", json!("ask"), Value::Null, self.odd.len());
        let params = format!(
            r#""name":"drop_database","ref":{{"name":"{}ask","type":"ref/prompt"}},"argument":{{"name":"x","value":""}}"#,
            self.prefix
        );
        self.request("a completion", "completion/complete", &params, outcome);
    }
}
