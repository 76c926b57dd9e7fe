//! SQL92 expressions: exactly the matching messages, and nothing left over.

use std::collections::HashMap;
use std::time::Duration;

use rocketmq::model::message::MessageBuilder;
use rocketmq::SimpleConsumer;
use tokio::time::Instant;

use crate::harness::{expect_once, require, text, Outcome, Run, Source, LONG};
use crate::ledger::Ledger;
use crate::limits::expect_refused;
use crate::surely;

const COLOURS: [&str; 3] = ["red", "green", "blue"];
const ROWS: i64 = 30;

/// The properties of message `a`. A missing note is what IS NULL asks for.
fn row(a: i64) -> HashMap<&'static str, String> {
    let colour = COLOURS[usize::try_from(a % 3).expect("a row is not negative")];
    let mut properties = HashMap::from([("a", a.to_string()), ("color", colour.to_owned())]);
    if a % 2 == 0 {
        properties.insert("note", format!("note {a}"));
    }
    properties
}

/// A consumer group with an expression, and the same said in Rust about the number, the colour, and whether there is a note.
struct Case {
    name: &'static str,
    expression: &'static str,
    matches: fn(i64, &str, bool) -> bool,
}

const CASES: [Case; 4] = [
    Case {
        name: "and-in",
        expression: "a > 5 AND color IN ('red', 'blue') AND note IS NOT NULL",
        matches: |a, color, note| a > 5 && color != "green" && note,
    },
    Case { name: "between", expression: "a BETWEEN 10 AND 19", matches: |a, _, _| (10..=19).contains(&a) },
    Case { name: "equal", expression: "color = 'green'", matches: |_, color, _| color == "green" },
    Case {
        name: "or-null",
        expression: "(note IS NULL AND a <= 3) OR (a >= 25 AND color <> 'red')",
        matches: |a, color, note| (!note && a <= 3) || (a >= 25 && color != "red"),
    },
];

impl Case {
    fn expected(&self) -> Vec<String> {
        let matching = (0..ROWS).filter(|&a| (self.matches)(a, &row(a)["color"], row(a).contains_key("note")));
        matching.map(|a| format!("row {a}")).collect()
    }
}

pub async fn filter(run: &Run) -> Outcome {
    let topic = run.topic().await?;
    for case in &CASES {
        run.group(case.name).await?;
    }
    run.step("sending rows");
    let producer = run.producer().await?;
    for a in 0..ROWS {
        let builder = MessageBuilder::builder().set_topic(&topic).set_body(format!("row {a}").into_bytes());
        producer.send(builder.set_properties(row(a)).build()?).await?;
    }
    let ledger = Ledger::of(run).await?;
    let consumers = consumers(run).await?;
    run.step("receiving half of what matches");
    for (case, consumer) in CASES.iter().zip(&consumers) {
        let half = case.expected().len() / 2;
        for delivered in Source::sql(consumer, &topic, case.expression).collect(half, Duration::from_secs(20)).await? {
            ledger.add(case.name, &text(&delivered))?;
        }
    }
    let restarted = run.middle("sql-filter-heir").await?;
    receive_rest(run, &topic, &consumers, &ledger, !restarted).await?;
    run.step("subscribing with an expression that is none");
    let consumer = run.simple_consumer(&run.group("illegal").await?).await?;
    let call = async move {
        let illegal = Source::sql(&consumer, &topic, "a > AND color");
        illegal.try_receive(1, LONG).await
    };
    expect_refused("illegal expression", &["ILLEGAL_FILTER_EXPRESSION"], call).await
}

pub async fn filter_heir(run: &Run) -> Outcome {
    let consumers = consumers(run).await?;
    receive_rest(run, &run.name_of("sql-filter", "topic"), &consumers, &Ledger::of(run).await?, false).await
}

async fn consumers(run: &Run) -> Outcome<Vec<SimpleConsumer>> {
    let mut consumers = Vec::new();
    for case in &CASES {
        consumers.push(run.simple_consumer(&run.name_of("sql-filter", case.name)).await?);
    }
    Ok(consumers)
}

async fn receive_rest(run: &Run, topic: &str, consumers: &[SimpleConsumer], ledger: &Ledger, once: bool) -> Outcome {
    run.step("receiving the rest");
    for (case, consumer) in CASES.iter().zip(consumers) {
        receive_matching(case, consumer, topic, ledger).await?;
        expect_once(ledger.firsts(case.name), &case.expected())?;
        let came = ledger.numbers(case.name, "row").len();
        require(!once || came == case.expected().len(), || format!("rows for `{}` came more than once", case.expression))?;
    }
    run.step("expecting nothing else");
    for (case, consumer) in CASES.iter().zip(consumers) {
        Source::sql(consumer, topic, case.expression).expect_silence(2).await?;
        run.expect_no_lag(&run.name_of("sql-filter", case.name), topic).await?;
    }
    Ok(())
}

async fn receive_matching(case: &Case, consumer: &SimpleConsumer, topic: &str, ledger: &Ledger) -> Outcome {
    let source = Source::sql(consumer, topic, case.expression);
    let (wanted, deadline) = (case.expected().len(), Instant::now() + Duration::from_secs(20));
    while ledger.firsts(case.name).len() < wanted {
        let came = ledger.firsts(case.name).len();
        require(Instant::now() < deadline, || format!("{came} of {wanted} rows for `{}` within 20 s", case.expression))?;
        for delivered in surely::receive(&source, 16, LONG).await? {
            ledger.add(case.name, &text(&delivered))?;
            surely::ack(consumer, &delivered).await?;
        }
    }
    Ok(())
}
