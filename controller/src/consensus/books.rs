//! The books of one node: the raft log, its vote, and who it is, in one redb file.
//!
//! ```text
//!  table `log`    index          → CRC32C · Entry    CRC over key and value, so that no damage of a page goes unseen
//!  table `facts`  "identity"     → CRC32C · Member   the node, and in place of its address the cluster
//!                 "vote"         → CRC32C · Ballot
//!                 "committed"    → CRC32C · LogId    a hint for the next start; the one thing that isn't synced
//!                 "purged"       → CRC32C · LogId    the last entry that was removed because a snapshot has it
//! ```
//! Each change is one durable transaction: after a crash it is there whole or not at all. redb checks its own pages at every open.

use super::OpenError;
use super::kinds::{Entry, LogId, Vote};
use super::redb_file::RedbFile;
use super::wire::{self, Unreadable, missing};
use crc_fast::{CrcAlgorithm, Digest};
use gantry_model::NodeId;
use gantry_platform::disk::{DiskFile, Lock, SharedDisk};
use gantry_proto::controller as pb;
use prost::Message;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tokio::sync::watch;

const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
const FACTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("facts");
/// redb's cache. The log is read in order and once; more than its newest part needs no memory.
const CACHE: usize = 4 * 1024 * 1024;
/// The file in its folder, and its name until it is whole.
const FILE: &str = "log.redb";
const FILE_NEW: &str = "log.redb.new";
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// How a change waits for room on a full disk.
struct Room {
    /// Told while one waits.
    full: watch::Sender<bool>,
    /// Told when none may wait any longer.
    ending: watch::Receiver<bool>,
}

/// Who a node is, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 32 hexadecimal digits.
    pub cluster: String,
    pub node: NodeId,
}

/// The open file.
pub struct Books {
    disk: SharedDisk,
    path: PathBuf,
    /// `None` after a failed write, until it could be opened again.
    database: Option<Database>,
    /// Without it a change fails on a full disk.
    room: Option<Room>,
    _lock: Lock,
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Books").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What went wrong with the file.
#[derive(Debug)]
pub enum BooksError {
    Io(io::Error),
    Damaged(String),
}

impl fmt::Display for BooksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BooksError::Io(error) => error.fmt(f),
            BooksError::Damaged(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for BooksError {}

impl BooksError {
    /// Whether room would help.
    pub fn is_full(&self) -> bool {
        matches!(self, BooksError::Io(error) if error.kind() == io::ErrorKind::StorageFull)
    }
}

impl<E: Into<redb::Error>> From<E> for BooksError {
    fn from(error: E) -> BooksError {
        match error.into() {
            redb::Error::Io(error) => BooksError::Io(error),
            redb::Error::Corrupted(why) => BooksError::Damaged(why),
            redb::Error::PreviousIo => BooksError::Io(io::Error::other("an earlier read or write failed")),
            error => BooksError::Damaged(error.to_string()),
        }
    }
}

fn unreadable(what: &str) -> impl FnOnce(Unreadable) -> BooksError {
    let what = what.to_owned();
    move |error| BooksError::Damaged(format!("{what}: {error}"))
}

type Result<T> = std::result::Result<T, BooksError>;

/// The beginning and the end of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extent {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

impl Books {
    /// The books that the folder holds, if it holds any.
    pub fn open(disk: &SharedDisk, dir: &Path) -> std::result::Result<Option<Books>, OpenError> {
        let path = dir.join(FILE);
        if !disk.exists(&path).map_err(|error| OpenError::io(&path, error))? {
            return Ok(None);
        }
        let lock = lock(disk, dir)?;
        let database = database(disk, &path).map_err(|error| OpenError::books(&path, error))?;
        let books = Books { disk: disk.clone(), path, database: Some(database), room: None, _lock: lock };
        books.check().map_err(|error| OpenError::books(&books.path, error))?;
        Ok(Some(books))
    }

    /// New books. They are there whole, with the identity in them, or not at all.
    pub fn create(disk: &SharedDisk, dir: &Path, identity: &Identity) -> std::result::Result<Books, OpenError> {
        disk.create_dir_all(dir).map_err(|error| OpenError::io(dir, error))?;
        let (path, new) = (dir.join(FILE), dir.join(FILE_NEW));
        let lock = lock(disk, dir)?;
        let begin = || -> Result<Database> {
            let database = database_in(disk.create(&new).map_err(BooksError::Io)?)?;
            let transaction = database.begin_write()?;
            transaction.open_table(LOG)?;
            put(&transaction, "identity", &pb::Member { node: identity.node.0, address: identity.cluster.clone() })?;
            transaction.commit()?;
            disk.rename(&new, &path).map_err(BooksError::Io)?;
            Ok(database)
        };
        let database = begin().map_err(|error| OpenError::books(&path, error))?;
        Ok(Books { disk: disk.clone(), path, database: Some(database), room: None, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything once, so that damage is met at the start and not when an entry is needed.
    fn check(&self) -> Result<()> {
        self.identity()?;
        self.vote()?;
        self.committed()?;
        self.extent()?;
        self.check_log()
    }

    /// Every entry is whole and in its place, with none missing between the first and the last.
    fn check_log(&self) -> Result<()> {
        let transaction = self.database()?.begin_read()?;
        let mut expected = None;
        for row in transaction.open_table(LOG)?.iter()? {
            let (index, value) = row?;
            let index = index.value();
            unseal(&index.to_be_bytes(), value.value()).map_err(unreadable(&format!("entry {index}")))?;
            if expected.is_some_and(|expected| expected != index) {
                return Err(BooksError::Damaged(format!("entry {index} stands where entry {} belongs", expected.unwrap_or(0))));
            }
            expected = Some(index + 1);
        }
        Ok(())
    }

    pub fn identity(&self) -> Result<Identity> {
        let identity: pb::Member = self.get("identity")?.ok_or_else(|| BooksError::Damaged("the identity of the node is missing".into()))?;
        Ok(Identity { cluster: identity.address, node: NodeId(identity.node) })
    }

    pub fn vote(&self) -> Result<Option<Vote>> {
        Ok(self.get("vote")?.map(|ballot: pb::Ballot| wire::read_ballot(&ballot)))
    }

    pub fn committed(&self) -> Result<Option<LogId>> {
        Ok(self.get("committed")?.map(|id: pb::LogId| wire::read_log_id(&id)))
    }

    pub fn extent(&self) -> Result<Extent> {
        let purged: Option<pb::LogId> = self.get("purged")?;
        let purged = purged.map(|id| wire::read_log_id(&id));
        let transaction = self.database()?.begin_read()?;
        let last = match transaction.open_table(LOG)?.last()? {
            Some((index, value)) => Some(read_entry(index.value(), value.value())?.log_id),
            None => purged,
        };
        Ok(Extent { purged, last })
    }

    pub fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Entry>> {
        let transaction = self.database()?.begin_read()?;
        let table = transaction.open_table(LOG)?;
        let read = |row: std::result::Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>| {
            let (index, value) = row?;
            read_entry(index.value(), value.value())
        };
        table.range(range)?.map(read).collect()
    }

    pub fn save_vote(&mut self, vote: &Vote) -> Result<()> {
        self.write(Durability::Immediate, |transaction| put(transaction, "vote", &wire::ballot(vote)))
    }

    /// Forgets that this node led, and remembers only that it voted for itself. A leader that starts again must win a new term: openraft
    /// would go on leading with an old idea of what was committed, and answer linearizable reads by it.
    pub fn lead_no_more(&mut self) -> Result<()> {
        let own = self.identity()?.node;
        match self.vote()? {
            Some(vote) if vote.committed && vote.leader_id.node_id == own => self.save_vote(&Vote { committed: false, ..vote }),
            _ => Ok(()),
        }
    }

    /// Without a sync of its own: the next change that has one brings it to the disk.
    pub fn save_committed(&mut self, committed: Option<LogId>) -> Result<()> {
        self.write(Durability::None, |transaction| match &committed {
            Some(id) => put(transaction, "committed", &wire::log_id(id)),
            None => transaction.open_table(FACTS)?.remove("committed").map(|_| ()).map_err(BooksError::from),
        })
    }

    /// Adds encoded entries, all or none.
    pub fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<()> {
        self.write(Durability::Immediate, |transaction| {
            let mut table = transaction.open_table(LOG)?;
            for (index, bytes) in entries {
                table.insert(index, bytes.as_slice())?;
            }
            Ok(())
        })
    }

    /// Removes this entry and all later ones.
    pub fn truncate(&mut self, from: u64) -> Result<()> {
        self.write(Durability::Immediate, |transaction| Ok(transaction.open_table(LOG)?.retain_in(from.., |_, _| false)?))
    }

    /// Removes this entry and all earlier ones.
    pub fn purge(&mut self, upto: LogId) -> Result<()> {
        self.write(Durability::Immediate, |transaction| {
            put(transaction, "purged", &wire::log_id(&upto))?;
            Ok(transaction.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?)
        })
    }

    /// From now on a change waits while the disk is full, and says so.
    pub fn wait_for_room(&mut self, full: watch::Sender<bool>, ending: watch::Receiver<bool>) {
        self.room = Some(Room { full, ending });
    }

    fn database(&self) -> Result<&Database> {
        self.database.as_ref().ok_or_else(|| BooksError::Io(io::Error::other("the file could not be opened again after a failed write")))
    }

    /// On a full disk the change waits for room: nobody was told that it is done, and others may be a quorum without this node. Any
    /// other failure is final, because what the disk holds is no longer known.
    fn write(&mut self, durability: Durability, change: impl Fn(&WriteTransaction) -> Result<()>) -> Result<()> {
        let mut result = self.try_write(durability, &change);
        let Some(Room { full, ending }) = self.room.as_ref().map(|room| Room { full: room.full.clone(), ending: room.ending.clone() }) else {
            return result;
        };
        if result.as_ref().is_err_and(BooksError::is_full) {
            tracing::warn!(file = %self.path.display(), "the disk is full; changes of the controller wait until there is room");
        }
        while result.as_ref().is_err_and(BooksError::is_full) && !*ending.borrow() {
            full.send_replace(true);
            pause();
            result = self.reopen().and_then(|()| self.try_write(durability, &change));
        }
        full.send_if_modified(std::mem::take);
        result
    }

    fn try_write(&mut self, durability: Durability, change: impl Fn(&WriteTransaction) -> Result<()>) -> Result<()> {
        let mut transaction = self.database()?.begin_write()?;
        transaction.set_durability(durability)?;
        change(&transaction)?;
        Ok(transaction.commit()?)
    }

    /// Reads the file as after a crash, since redb trusts nothing that it holds in memory after a failed write.
    fn reopen(&mut self) -> Result<()> {
        self.database = None;
        self.database = Some(database(&self.disk, &self.path)?);
        Ok(())
    }

    fn get<M: Message + Default>(&self, fact: &str) -> Result<Option<M>> {
        let transaction = self.database()?.begin_read()?;
        let table = match transaction.open_table(FACTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        let Some(value) = table.get(fact)? else { return Ok(None) };
        let bytes = unseal(fact.as_bytes(), value.value()).map_err(unreadable(fact))?;
        M::decode(bytes).map(Some).map_err(|error| BooksError::Damaged(format!("{fact}: {error}")))
    }
}

/// Waits on a channel that says nothing: a thread has no other clock here.
fn pause() {
    let (_open, silence) = sync_channel::<()>(0);
    if silence.recv_timeout(FULL_RETRY).is_ok() {
        unreachable!("nobody speaks");
    }
}

fn lock(disk: &SharedDisk, dir: &Path) -> std::result::Result<Lock, OpenError> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(|error| OpenError::io(&path, error))
}

fn database(disk: &SharedDisk, path: &Path) -> Result<Database> {
    database_in(disk.open(path).map_err(BooksError::Io)?)
}

fn database_in(file: Arc<dyn DiskFile>) -> Result<Database> {
    let backend = RedbFile::new(file).map_err(BooksError::Io)?;
    let opened = Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(true).create_with_backend(backend);
    opened.map_err(|error: DatabaseError| BooksError::from(error))
}

fn put(transaction: &WriteTransaction, fact: &str, message: &impl Message) -> Result<()> {
    let value = seal(fact.as_bytes(), &message.encode_to_vec());
    transaction.open_table(FACTS)?.insert(fact, value.as_slice())?;
    Ok(())
}

/// An entry as it is stored.
pub fn encode_entry(entry: &Entry) -> (u64, Vec<u8>) {
    let index = entry.log_id.index;
    (index, seal(&index.to_be_bytes(), &wire::entry(entry).encode_to_vec()))
}

fn read_entry(index: u64, value: &[u8]) -> Result<Entry> {
    let read = || {
        let bytes = unseal(&index.to_be_bytes(), value)?;
        let entry = pb::Entry::decode(bytes).map_err(|error| Unreadable(error.to_string()))?;
        let entry = wire::read_entry(&entry)?;
        if entry.log_id.index != index {
            return Err(Unreadable(format!("it says that it is entry {}", entry.log_id.index)));
        }
        Ok(entry)
    };
    read().map_err(unreadable(&format!("entry {index}")))
}

fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut sealed = checksum(key, bytes).to_le_bytes().to_vec();
    sealed.extend_from_slice(bytes);
    sealed
}

fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> std::result::Result<&'a [u8], Unreadable> {
    let (sum, bytes) = sealed.split_first_chunk().ok_or_else(|| missing("checksum"))?;
    if u32::from_le_bytes(*sum) != checksum(key, bytes) {
        return Err(Unreadable("the checksum is wrong".into()));
    }
    Ok(bytes)
}

fn checksum(key: &[u8], bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(key);
    digest.update(bytes);
    digest.finalize() as u32
}
