//! Tests of which bytes are valid messages.

use super::*;

fn fault(text: &str) -> InvalidMessage {
    Message::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn request_keeps_the_clients_bytes() {
    let text = r#"{"jsonrpc":"2.0","id": 7 ,"method":"tools/call","params":{"n":1.00}}"#;
    let Message::Request(request) = Message::parse(text.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(request.id.get(), "7");
    assert_eq!(request.method, "tools/call");
    assert_eq!(request.params.unwrap().get(), r#"{"n":1.00}"#);
}

#[test]
fn escaped_method_is_decoded() {
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"tools\u002flist"}"#;
    let Message::Request(request) = Message::parse(text.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(request.method, "tools/list");
}

#[test]
fn invalid_json_is_a_parse_error() {
    for text in ["", "{", "{]", "hello", r#"{"jsonrpc":"2.0" "id":1}"#] {
        assert_eq!(fault(text).code, error_code::PARSE_ERROR, "{text}");
    }
}

#[test]
fn json_without_message_is_an_invalid_request() {
    for text in [
        "[]",
        "1",
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":[],"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1e-1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1e999,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":"\ud800","method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","PARAMS":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","\u0049D":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","re\u017fult":{}}"#,
        r#"{"jsonrpc":"2.0","method":"ping","Id":1}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"Method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"method\u0000":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":5}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
    ] {
        assert_eq!(fault(text).code, error_code::INVALID_REQUEST, "{text}");
    }
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#,
        "x".repeat(1100)
    );
    assert_eq!(fault(&long).code, error_code::INVALID_REQUEST);
}

#[test]
fn ids_with_unstable_spelling_are_not_forwarded() {
    let long = format!("\"{}\"", "x".repeat(300));
    for (id, is_sent) in [
        ("7", true),
        ("-7", true),
        ("9007199254740993", true),
        (r#""a\u0041""#, true),
        ("-0", false),
        ("1.0", false),
        ("1e2", false),
        (&*long, false),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let Message::Request(request) = Message::parse(text.as_bytes()).unwrap() else {
            panic!("{text} is no request");
        };
        assert_eq!(is_forwardable_id(request.id), is_sent, "{id}");
    }
}

#[test]
fn error_without_id_is_a_response() {
    let text = r#"{"jsonrpc":"2.0","error":{"code":1,"message":"no"}}"#;
    let message = Message::parse(text.as_bytes()).unwrap();
    assert!(matches!(message, Message::Response(response) if response.id.get() == "null"));
    assert_eq!(
        fault(r#"{"jsonrpc":"2.0","result":{}}"#).code,
        error_code::INVALID_REQUEST
    );
}

#[test]
fn batch_size_is_between_one_and_the_limit() {
    let array = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    assert_eq!(batch(array(MAX_BATCH).as_bytes()).unwrap().len(), MAX_BATCH);
    for (text, code) in [
        (array(0), error_code::INVALID_REQUEST),
        (array(MAX_BATCH + 1), error_code::INVALID_REQUEST),
        ("[1,".to_owned(), error_code::PARSE_ERROR),
        ("[1] 2".to_owned(), error_code::PARSE_ERROR),
        ("{}".to_owned(), error_code::INVALID_REQUEST),
    ] {
        assert_eq!(batch(text.as_bytes()).unwrap_err().code, code, "{text}");
    }
}

#[test]
fn duplicate_key_is_refused_even_if_escaped() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/list"}"#,
    ] {
        let fault = fault(text);
        assert_eq!(fault.code, error_code::INVALID_REQUEST);
        assert!(fault.message.contains("duplicate field `method`"), "{fault}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}{}}}}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    assert!(fault(&text).message.contains("nests deeper"));
}

#[test]
fn response_id_matches_in_any_spelling() {
    let ours = RawValue::from_string(r#""a/b""#.to_owned()).unwrap();
    let theirs = br#"{"jsonrpc":"2.0","id":"a\/b","result":{}}"#;
    assert!(Response::parse(theirs).unwrap().answers(&ours));
    let other = br#"{"jsonrpc":"2.0","id":"a","result":{}}"#;
    assert!(!Response::parse(other).unwrap().answers(&ours));
}

#[test]
fn ids_equal_to_some_parser_are_equal() {
    let same = |one: &str, other: &str| {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        same_id(&raw(one), &raw(other))
    };
    for (one, other) in [
        ("7", "7"),
        ("7", "7.0"),
        ("9007199254740993", "9007199254740992"),
        ("100000000000000000000", "1e20"),
        (r#""a/b""#, r#""\u0061\/b""#),
    ] {
        assert!(same(one, other) && same(other, one), "{one} {other}");
    }
    for (one, other) in [
        ("7", "8"),
        ("7", r#""7""#),
        ("9007199254740991", "9007199254740990"),
        ("null", "0"),
        (r#""a""#, r#""A""#),
        (r#""\ud800""#, r#""\ud801""#),
    ] {
        assert!(!same(one, other), "{one} {other}");
    }
}

#[test]
fn ambiguous_backend_message_is_refused() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"ID":2}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/message","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","paramſ":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x","Message":"y"}}"#,
    ] {
        assert!(Message::from_backend(text.as_bytes()).is_err(), "{text}");
    }
    let answer = br#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}"#;
    let fault = Response::parse(answer).unwrap_err();
    assert!(
        fault.message.contains(r#""Result" can be taken for "result""#),
        "{fault}"
    );
}

#[test]
fn reserved_id_is_recognized_in_any_spelling() {
    for (id, reserved) in [
        (r#""vmcp:1""#, true),
        (r#""v\u006dcp:1""#, true),
        (r#""vmcp""#, false),
        ("1", false),
    ] {
        let raw = RawValue::from_string(id.to_owned()).unwrap();
        assert_eq!(is_reserved_id(&raw), reserved, "{id}");
    }
}

#[test]
fn backend_sends_requests_notifications_and_responses() {
    let ask = br#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#;
    assert!(matches!(Message::from_backend(ask), Ok(Message::Request(request)) if request.id.get() == "0"));
    let notify = br#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    assert!(matches!(
        Message::from_backend(notify),
        Ok(Message::Notification { .. })
    ));
    let answer = br#"{"jsonrpc":"2.0","id":0,"result":{}}"#;
    assert!(matches!(Message::from_backend(answer), Ok(Message::Response(_))));
    assert!(Message::from_backend(b"[]").is_err());
    let long = format!(r#"{{"id":"{}","method":"x"}}"#, "x".repeat(2000));
    assert!(Message::from_backend(long.as_bytes()).is_err());
}

/// A response that strict clients would drop is rejected, and the error names the problem.
#[test]
fn invalid_backend_response_is_refused_with_reason() {
    for (text, says) in [
        (r#"{"id":1,"result":{}}"#, r#"no "jsonrpc":"2.0""#),
        (r#"{"jsonrpc":"1.0","id":1,"result":{}}"#, r#"no "jsonrpc":"2.0""#),
        (r#"{"jsonrpc":2.0,"id":1,"result":{}}"#, r#"no "jsonrpc":"2.0""#),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":null}"#,
            "result is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":"x"}"#,
            "result is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":[1]}"#,
            "result is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":"boom"}"#,
            "error is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":[1,"x"]}"#,
            "error is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":"x"}}"#,
            "error is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
            "error is not an object",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":2}}"#,
            "error is not an object",
        ),
        (r#"["2.0",1,"x",{},0,0]"#, "batch"),
    ] {
        for fault in [
            Response::parse(text.as_bytes()).unwrap_err(),
            Message::from_backend(text.as_bytes()).unwrap_err(),
        ] {
            assert!(fault.message.contains(says), "{text}: {fault}");
        }
    }
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"x","data":null}}"#,
        r#"{"j\u0073onrpc":"2\u002e0","i\u0064":1,"r\u0065sult": {}}"#,
    ] {
        assert!(Response::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

/// The method, outcome and first id of an invalid message are still read.
#[test]
fn envelope_fields_of_invalid_messages_are_read() {
    let fields = |text| {
        EnvelopeFields::of(text)
            .map(|fields: EnvelopeFields<'_>| (fields.has_method, fields.id.map(RawValue::get)))
    };
    assert_eq!(
        fields(br#"{"id":1,"i\u0064":2,"result":{}}"#),
        Some((false, Some("1")))
    );
    assert_eq!(fields(br#"{"m\u0065thod":5,"method":"x"}"#), Some((true, None)));
    for text in [&b"[]"[..], b"1", b"{", b"\xff"] {
        assert_eq!(fields(text), None);
    }
}

/// The id of an invalid request is returned only if it is valid and unique.
#[test]
fn awaited_id_of_invalid_request_is_unambiguous() {
    let id = |text: &'static str| awaited_id(text.as_bytes()).map(RawValue::get);
    for (text, awaited) in [
        (r#"{"jsonrpc":"1.0","id":7,"method":"x"}"#, Some("7")),
        (r#"{"id":"a","method":7}"#, Some(r#""a""#)),
        (r#"{"i\u0064":7,"method":"x","method":"y"}"#, Some("7")),
        (r#"{"id":7,"method":"x","result":{}}"#, Some("7")),
        (r#"{"id":7}"#, Some("7")),
        (r#"{"id":7,"i\u0064":7,"method":"x"}"#, None),
        (r#"{"id":7,"result":{},"error":{}}"#, None),
        (r#"{"id":1.5,"method":7}"#, None),
        (r#"{"id":null,"method":7}"#, None),
        (r#"{"method":7}"#, None),
        (r#"[7]"#, None),
        (r#"{"id":7,"#, None),
    ] {
        assert_eq!(id(text), awaited, "{text}");
    }
}

#[test]
fn error_message_is_escaped() {
    let id = RawValue::from_string("1".to_owned()).unwrap();
    let body = error(Some(&id), -32603, "a \"b\"\n");
    assert_eq!(
        body,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"a \"b\"\n"}}"#
    );
    assert!(error(None, -32700, "x").starts_with(br#"{"jsonrpc":"2.0","id":null"#));
}

#[test]
fn parsing_is_linear_for_any_content() {
    use crate::runtime::step_counter::{assert_linear, counted};

    let with = |unit: &str, many: usize| {
        let units = unit.repeat(many);
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":[{units}0]}},"b":1}}"#)
    };
    for unit in ["[],", "{},", r#""{\\\"","#, "1,", r#"{"a":{}},"#] {
        assert_linear(
            500,
            |many| with(unit, many),
            |text| {
                assert!(Message::parse(text.as_bytes()).is_ok(), "{unit}");
                assert!(awaited_id(text.as_bytes()).is_some(), "{unit}");
            },
        );
    }
    let keys = |many: usize| {
        format!(
            r#"{{{}"jsonrpc":"2.0","id":1,"result":{{}}}}"#,
            r#""x":1,"#.repeat(many)
        )
    };
    assert_linear(500, keys, |text| {
        assert!(Response::parse(text.as_bytes()).is_ok());
        assert!(EnvelopeFields::of(text.as_bytes()).is_some());
    });
    let messages = |many: usize| format!("[{}0]", "0,".repeat(many));
    assert_linear(3, messages, |text| drop(batch(text.as_bytes())));
    let steps = |many: usize| counted(|| assert!(batch(messages(many).as_bytes()).is_err()));
    assert_eq!(steps(200), steps(20_000), "a batch is left at its bound");
}
