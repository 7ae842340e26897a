package containers

// overrideXattr has the owner, mode and type of a file of a store whose files
// have others on disk.
const overrideXattr = "user.containers.override_stat"
