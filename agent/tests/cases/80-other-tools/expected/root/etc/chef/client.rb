# Written by kiln-agent
log_level              :info
ssl_verify_mode        :verify_none
log_location           "/var/log/chef/client.log"
validation_client_name "org-validator"
validation_key         "/etc/chef/validation.pem"
client_key             "/etc/chef/client.pem"
chef_server_url        "https://chef.example.org"
environment            "_default"
node_name              "i-case"
json_attribs           "/etc/chef/firstboot.json"
file_cache_path        "/var/chef/cache"
file_backup_path       "/var/chef/backup"
pid_file               "/var/run/chef/client.pid"
Chef::Log::Formatter.show_time = true
