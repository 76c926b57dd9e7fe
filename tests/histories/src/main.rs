//! The long form: as many histories as are asked for, from a seed on.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut count, mut seed) = (1_000_000u64, 0u64);
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        let number = rest.next().and_then(|text| text.parse().ok());
        match (flag.as_str(), number) {
            ("--histories", Some(number)) => count = number,
            ("--from", Some(number)) => seed = number,
            ("--tell", Some(number)) => {
                println!("{}", gantry_histories::history::History::new(number).aloud().run());
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("usage: gantry-histories [--histories N] [--from SEED]    plays N histories (default 1000000)");
                eprintln!("       gantry-histories --tell SEED                       tells one history as it goes");
                return ExitCode::from(2);
            }
        }
    }
    let mut total = gantry_histories::history::Outcome::default();
    for number in 0..count {
        total.add(&gantry_histories::play(seed + number));
        if (number + 1).is_multiple_of(50_000) || number + 1 == count {
            println!("{} of {count} histories hold: {total}", number + 1);
        }
    }
    ExitCode::SUCCESS
}
