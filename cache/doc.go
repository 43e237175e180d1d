// Package cache owns what sandboxes are made of: images become bases (read-only, unpacked, shared), bases
// get scratches (writable, one job's, discarded). It resolves, pulls, verifies, unpacks, leases and collects
// images; it makes and destroys scratches; it keeps the directories in which jobs cache files. It is what callers
// use; the work is done in the packages below it, none of which imports it.
//
// It never starts a sandbox and knows nothing of isolation or jobs: an adapter in cmd/airlock-executor makes
// it a jobs.Layers. It never stores or logs a credential, and it never gives a private image, or a layer that
// only a private image brought, to a job whose own credentials do not open it at its registry.
//
// # How it reads
//
//	Base (base.go)      authorises an image that is here, or resolves and pulls it (pull.go), and leases it
//	image               says what a name leads to, by way of registry or archive
//	fetch.go            transfers what is missing, a few layers at a time; layer unpacks it, in a tree
//	records             make an image count, and say what is needed, used and evicted
//	disk.go             has disk merge the layers for a guest
//	import.go           does the same for what an administrator sends
//	scratch.go          scratch and volume
//	space, trash        limit and delete for all; singleflight does equal work once; untrusted reads from strangers
//
// # On disk
//
//	Dir/lock                     held by the one process that may use Dir
//	Dir/layers/sha256/<id>/fs    an unpacked layer, by its chain id: what its tar and those of the layers below hold
//	Dir/disks/sha256-<hash>.ext4 the layers of an image merged into one disk, for guests; by a hash of their ids
//	Dir/images/<digest>.json     an image: configuration and layers; its mtime is when it was last used
//	Dir/refs/<hash>.json         what a name led to when it was last resolved, for a kind of processor if it varies
//	Dir/ingest/<random>          layers and disks in the making; emptied at start
//	Dir/pool/<random>            formatted scratch files, ready to be taken; emptied at start
//	Dir/scratch/<id>             a scratch: its disk image, mounted here or a guest's, or its directory
//	Dir/trash/<random>           being deleted
//	Dir/volumes/<hash>-<scope>   what jobs cache
//	RunDir/scratch/<id>          where a scratch is mounted
//
// A layer counts only if an image's record names it, and a record is written, atomically, only when all its
// layers are complete and synced. So whatever kills the process or the host, a half-made layer is never seen:
// New removes what no record names. A disk gets its name when it is complete and synced, and stays as long as there
// is an image that has just those layers.
//
// # What is asked of registries
//
// No request goes to this host's loopback unless the administrator listed the registry, none to link-local addresses,
// and none that a registry leads to is nearer to this host than the registry itself is (registry). Answers are
// bounded in size, and no connection may be silent for long; what broke is asked for again, a blob from where it was.
// Whatever an answer is wrong in is the author's failure and not tried again; nothing of it is quoted.
//
// # Room
//
// What a layer or a disk takes is measured when it is whole, in allocated blocks and inodes. Before anything is written
// it is asked for twice: of the budget of its image, which an image exceeds by its author's fault, and of the
// room that all work under way shares (space). That evicts images which nobody uses, keeps what the limits of the
// cache say, and ends at the floor of the file system by the system's fault. Images that an administrator imported are
// pinned: they are never evicted.
//
// # Whose image is it
//
// A base that came with credentials is private unless its registry shows the same manifest to the anonymous.
// A private base is authorised again for every job, whatever the pull policy, by asking its registry for
// the manifest with that job's credentials. A layer is shared between repositories only if some image with it
// is public; else the other repository has to deliver the very bytes first. What an administrator imports is
// public on this host. An image that was public when it came stays so here while it is in the cache.
package cache
