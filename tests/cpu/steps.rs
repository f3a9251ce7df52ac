//! What a step may ask for, and what is refused.

use crate::harness::{Owned, Sequence, open, options};
use crate::model::{Model, small, tokens};
use crate::{difference, reference};
use aquila::Status;
use aquila::backend::cpu::isa::Level;
use aquila::backend::{Carry, ComputeType, Executor, ExecutorOptions, Row, Step, Ticket, Want, WantedRow};
use aquila::base::dtype::DType;
use aquila::model::spec::DecoderSpec;
use aquila::model::weights::Role;

fn executor(model: &Model) -> Box<dyn Executor> {
    open(Level::detect(), &model.spec, model.plain(), &options()).unwrap()
}

/// Two sequences, one of 20 rows and one of 3, with the last row of each wanted.
fn two_sequences(model: &Model) -> Owned {
    let mut owned = Owned::default();
    for (rows, first_block) in [(20, 0), (3, 7)] {
        owned.push(&Sequence::new(tokens(rows, model.spec.vocab, rows as u64), first_block), rows);
        owned.wanted.push(WantedRow { row: owned.tokens.len() - 1, want: Want::Logits });
    }
    owned
}

#[test]
fn logits_and_hidden_states_may_be_mixed() {
    let model = Model::new(small(), DType::F32, false);
    let mut executor = executor(&model);
    let mut owned = two_sequences(&model);
    owned.wanted = (0..23)
        .map(|row| WantedRow { row, want: if row % 3 == 1 { Want::Logits } else { Want::Hidden } })
        .collect();
    let ticket = executor.submit(&owned.step()).unwrap();
    let expected =
        [reference::run(&model, &owned.tokens[..20], 64), reference::run(&model, &owned.tokens[20..], 64)];
    let collected = executor.collect(ticket).unwrap();
    for row in 0..23 {
        let expected = &expected[row / 20].logits[row % 20];
        let logits = match collected.row(row) {
            Row::Logits(logits) => logits.to_vec(),
            Row::Hidden(h) => {
                let head = model.values[&(0, Role::Head)].chunks_exact(model.spec.hidden);
                head.map(|w| w.iter().zip(h).map(|(a, b)| a * b).sum()).collect()
            }
            other => panic!("{other:?}"),
        };
        assert!(difference(&logits, expected) < 2e-5, "row {row}");
    }
}

#[test]
fn the_tap_sees_every_residual() {
    let model = Model::new(small(), DType::F32, false);
    let mut executor = executor(&model);
    let owned = two_sequences(&model);
    let expected = reference::run(&model, &owned.tokens[..20], 64);
    let mut layers = 0;
    let ticket = executor
        .run_tapped(&owned.step(), &mut |layer, x| {
            assert_eq!((layer, x.len()), (layers, 23 * model.spec.hidden));
            for (row, x) in x.chunks_exact(model.spec.hidden).take(20).enumerate() {
                assert!(difference(x, &expected.residuals[layer][row]) < 2e-5, "layer {layer} row {row}");
            }
            layers += 1;
        })
        .unwrap();
    assert_eq!(layers, model.spec.layers);
    let Row::Logits(logits) = executor.collect(ticket).unwrap().row(0) else { panic!() };
    assert!(difference(logits, &expected.logits[19]) < 2e-5);
}

/// Every wrong step gives its status, and the executor works on afterwards.
#[test]
fn wrong_steps_are_refused() {
    let model = Model::new(small(), DType::F32, false);
    let mut executor = executor(&model);
    let good = two_sequences(&model);
    type Change = (&'static str, fn(&mut Owned));
    let changes: [Change; 16] = [
        ("131", |s| s.tokens[4] = 131),
        ("positions", |s| s.positions.truncate(22)),
        ("slots", |s| s.slots.push(0)),
        ("below 131 and 64", |s| s.positions[3] = 64),
        ("slot", |s| s.slots[5] += 1),
        ("slot", |s| s.slots[22] = u32::MAX),
        ("does not exist", |s| s.block_tables[2] = 64),
        ("blocks", |s| s.sequences[0].blocks = 1),
        ("blocks", |s| s.sequences[1].first_block = usize::MAX),
        ("begins", |s| s.sequences[1].first_row = 19),
        ("cover", |s| s.sequences.truncate(1)),
        ("begins", |s| s.sequences[0].rows = 0),
        ("rows", |s| s.sequences[1].rows = 40),
        ("context", |s| s.sequences[1].context = 65),
        ("wanted", |s| s.wanted[1].row = 23),
        ("wanted", |s| s.wanted.swap(0, 1)),
    ];
    for (word, change) in changes {
        let mut wrong = good.clone();
        change(&mut wrong);
        let error = executor.submit(&wrong.step()).unwrap_err();
        assert_eq!(error.status, Status::Argument, "{error}");
        assert!(error.message.contains(word), "{word}: {error}");
    }
    let mut many = good.clone();
    many.wanted = (0..17).map(|row| WantedRow { row, want: Want::Logits }).collect();
    assert_eq!(executor.submit(&many.step()).unwrap_err().status, Status::Argument);
    for want in [Want::Select, Want::Candidates] {
        let mut chosen = good.clone();
        chosen.wanted[0].want = want;
        assert_eq!(executor.submit(&chosen.step()).unwrap_err().status, Status::Unsupported);
    }
    let carry = [Carry { row: 0, from: Ticket(1), from_wanted: 0 }];
    let error = executor.submit(&Step { carry: &carry, ..good.step() }).unwrap_err();
    assert_eq!(error.status, Status::Unsupported);
    let too_long =
        Owned { tokens: vec![0; 513], positions: vec![0; 513], slots: vec![0; 513], ..good.clone() };
    assert_eq!(executor.submit(&too_long.step()).unwrap_err().status, Status::Argument);
    assert_eq!(executor.copy_blocks(&[(0, 64)]).unwrap_err().status, Status::Argument);

    assert_eq!(executor.submit(&good.step()).unwrap(), Ticket(1));
    assert!(executor.collect(Ticket(2)).is_err() && executor.collect(Ticket(0)).is_err());
    assert_eq!(executor.submit(&Step::default()).unwrap(), Ticket(2));
    assert_eq!(executor.collect(Ticket(1)).err().unwrap().status, Status::State);
}

#[test]
fn a_value_beyond_f16_is_named() {
    let mut model = Model::new(small(), DType::F32, false);
    model.values.get_mut(&(1, Role::Up)).unwrap()[96 * 5 + 7] = -7e4;
    let options = ExecutorOptions { dtype: Some(ComputeType::F16), ..options() };
    let error = open(Level::detect(), &model.spec, model.plain(), &options).err().unwrap();
    assert_eq!(error.status, Status::Format);
    for part in ["layers.1.Up", "row 5", "column 7", "-7e4"] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
}

#[test]
fn locked_memory_and_facts() {
    let model = Model::new(DecoderSpec { tied: true, ..small() }, DType::F16, false);
    let options = ExecutorOptions { lock_memory: true, ..options() };
    match open(Level::Scalar, &model.spec, model.plain(), &options) {
        Ok(executor) => {
            let facts = executor.describe();
            let fact = |name| facts.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
            assert_eq!(fact("threads"), Some("2"));
            assert_eq!(fact("instructions"), Some("scalar"));
            assert_eq!(fact("arithmetic"), Some("f16 weights, f32 arithmetic"));
            assert_eq!(fact("kv cache"), Some("f16"));
        }
        // A machine that lets nobody lock.
        Err(error) => assert!(error.status == Status::NoMemory && error.native_code != 0, "{error}"),
    }
}
