//! Data folders that are not for this program: it says so, says what to do, and changes nothing.

use crate::server::{check_refused, content, new_folder, read, write};

/// CRC-32C bit by bit, apart from the code under test.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// Changes the `node` file, the last line of which protects the others.
fn change_node(data: &std::path::Path, from: &str, to: &str) {
    let text = String::from_utf8(read(&data.join("node"))).unwrap();
    let (body, crc) = text.rsplit_once("crc ").unwrap();
    assert_eq!(crc.trim_end(), format!("{:08x}", crc32c(body.as_bytes())), "this test knows how the file is protected");
    let body = body.replace(from, to);
    write(&data.join("node"), 0, format!("{body}crc {:08x}\n", crc32c(body.as_bytes())).as_bytes());
}

#[test]
fn a_folder_of_a_newer_format_is_left_to_the_newer_version() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    new_folder(&data);
    change_node(&data, "format 1", "format 2");
    let before = content(&data);
    check_refused(
        &data,
        &[data.to_str().unwrap(), "has format 2, this program knows formats up to 1", "nothing was changed, start the newer version"],
    );
    let mut after = content(&data);
    // Who holds the folder is not part of its content.
    after.insert(data.join("lock"), before[&data.join("lock")].clone());
    assert_eq!(after, before);
}

#[test]
fn a_folder_of_something_else_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("photos");
    gantry_platform::disk::Disk::create_dir_all(&gantry_platform::RealDisk::new("/"), &data).unwrap();
    write(&data.join("holiday.jpg"), 0, b"the sea");
    write(&data.join("lock"), 0, b"somebody's");
    check_refused(&data, &[data.to_str().unwrap(), "is not a data folder: it holds `holiday.jpg`", "choose an empty folder with `--data`"]);
    assert_eq!(
        content(&data).into_iter().collect::<Vec<_>>(),
        [(data.join("holiday.jpg"), b"the sea".to_vec()), (data.join("lock"), b"somebody's".to_vec())]
    );
}

#[test]
fn a_damaged_node_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    new_folder(&data);
    let sound = read(&data.join("node"));
    let at = sound.windows(8).position(|word| word == b"cluster ").unwrap() + 8;
    write(&data.join("node"), at as u64, b"??");
    check_refused(&data, &[data.join("node").to_str().unwrap(), "is damaged; restore it from a backup"]);
    let damaged = read(&data.join("node"));
    assert_eq!(&damaged[at..at + 2], b"??", "it was not written over");
}
