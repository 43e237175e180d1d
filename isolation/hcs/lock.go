package hcs

import "sync"

// keyedLock excludes the making and the removal of one sandbox from each other, and no others. The zero value
// is ready.
type keyedLock struct {
	mutex sync.Mutex
	held  map[string]*keyLock
}

// keyLock is the lock of one key, kept while anyone holds or awaits it.
type keyLock struct {
	sync.Mutex
	users int
}

// lock waits for the key and returns what releases it.
func (l *keyedLock) lock(key string) (unlock func()) {
	l.mutex.Lock()
	if l.held == nil {
		l.held = map[string]*keyLock{}
	}
	k := l.held[key]
	if k == nil {
		k = &keyLock{}
		l.held[key] = k
	}
	k.users++
	l.mutex.Unlock()

	k.Lock()
	return func() {
		k.Unlock()
		l.mutex.Lock()
		defer l.mutex.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, key)
		}
	}
}
